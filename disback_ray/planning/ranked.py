"""What one of a role's ranks holds and computes: its part of the micro-batches, and with FSDP its part of the weights."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from disback_ray.config import Recipe, RoleResources
from disback_ray.planning.dry_run import Footprint

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
            found[name] = _shard(whole, asked.ranks) if asked.sharding == "fsdp" else whole
    return found


def _shard(whole: Footprint, ranks: int) -> Footprint:
    held = {kind: getattr(whole, kind) // ranks for kind in ("parameters", "optimiser", "average")}
    return replace(whole, peak=sum(held.values()) + whole.gradients + whole.activations, **held)
