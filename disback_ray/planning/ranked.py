"""What one of a role's ranks holds and computes: its part of the micro-batches, and with FSDP its part of the weights."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from disback_ray.algorithms.ranks import BUCKET_ELEMENTS
from disback_ray.config import Recipe, RoleResources
from disback_ray.planning.dry_run import Footprint

FLOAT32 = 4
Measure = Callable[[Recipe, Collection[str]], Mapping[str, Footprint]]


def of_each_rank(recipe: Recipe, roles: Mapping[str, RoleResources], measure: Measure) -> dict[str, Footprint]:
    """The footprint of one device of each role; measure: of some of a recipe's roles where each is whole.

    With FSDP a rank's gradients are counted whole: a block's are, until they have been added up.
    """
    found = dict(measure(recipe, [name for name, asked in roles.items() if asked.ranks == 1]))
    for name, asked in roles.items():
        if asked.ranks > 1:
            part = {"batch": recipe.batch // asked.ranks, "micro_batches": recipe.micro_batches // asked.ranks}
            whole = measure(recipe.model_copy(update=part), [name])[name]
            found[name] = _shard(whole, asked.ranks) if asked.sharding == "fsdp" else _summed(whole)
    return found


def _summed(whole: Footprint) -> Footprint:
    """With the copy of a bucket of gradients that is sent to the other ranks, once all of them are there."""
    if (commit := whole.peaks.get(("commit", 0))) is None:
        return whole
    bucket = min(commit.gradients, BUCKET_ELEMENTS * FLOAT32)
    peak = whole.parameters + commit.gradients + whole.optimiser + whole.average + bucket
    return replace(whole, peak=peak, gradients=commit.gradients) if peak > whole.peak else whole


def _shard(whole: Footprint, ranks: int) -> Footprint:
    held = {kind: getattr(whole, kind) // ranks for kind in ("parameters", "optimiser", "average")}
    on_host = whole.on_host // ranks
    return replace(whole, peak=sum(held.values()) + whole.gradients + whole.activations, on_host=on_host, **held)
