"""`placement: auto`: the very roles of a run play some steps in one process, and over actors where that could be faster."""

import contextlib
import itertools
import statistics
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from disback_ray.actors.company import Company, in_process, on_ray
from disback_ray.actors.parts import Places, denoiser_spec
from disback_ray.actors.placement import place
from disback_ray.actors.players import Recovered
from disback_ray.actors.session import attach
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import switches
from disback_ray.config import ClusterConfig, Recipe, Teacher
from disback_ray.errors import CheckpointError, DeviceMemoryError
from disback_ray.following import AHEAD
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.run_folder import write_config
from disback_ray.storage import Folder
from disback_ray.teachers.saved import is_saved, load_spec, save_denoiser
from disback_ray.theatre import LOCAL_PLACEMENT_SECONDS, cast_of

WARM_STEPS, STEPS, MOST_SECONDS = 2, 8, 20.0
CALLS, CALL_SECONDS = 6, 0.002
"""Of a micro-batch; and what Ray takes for each at least, of which the busiest role bears a part."""
MARGIN = 0.95
"""Actors have to save as much: starting them takes time too."""

Choice = tuple[str, str]
"""actors or in-process; and why, in one line."""


@dataclass(frozen=True)
class Timed:
    """seconds: of a step; busiest: the role with the most of them, and how many."""

    seconds: float
    busiest: str
    busy: float


def choose(recipe: Recipe, cluster: ClusterConfig, places: Places | None, storage: Folder, *, seed: int) -> Choice:
    """What is faster for a run, measured now. places: where its files lie, None while its images have not been read.

    Raises PlacementError and ClusterError where there is no Ray, and what building a role raises.
    """
    if places is None:
        return "actors", "its images are read on all machines; no trial was made"
    trained = is_saved(places.teacher)
    spec = load_spec(places.teacher) if trained else denoiser_spec(recipe) if isinstance(recipe.teacher, Teacher) else None
    if spec is None or isinstance(spec.network, TextUNetSpec):
        return "actors", "its networks take prompts, which are yet to be encoded; no trial was made"
    with _stage(storage) as folder:
        if not trained:
            save_denoiser(folder / "teacher", spec, spec.build().state_dict())  # untrained, it takes as long
        there = replace(places, teacher=places.teacher if trained else folder / "teacher", run=folder, cache=folder / "cache")
        write_config(folder, recipe, cluster, seed=seed)  # which shows that a machine sees the folder
        try:
            here = timed(in_process(recipe, there, cluster.roles.by_name(), seed=seed), recipe, seed=seed)
        except DeviceMemoryError:
            return "actors", "all roles don't fit one process's device"
        bound = here.busy + CALLS * recipe.micro_batches * CALL_SECONDS / 2
        if bound > MARGIN * here.seconds:
            return "in-process", (
                f"a step takes {ms(here.seconds)} there, {ms(here.busy)} of it {here.busiest}'s: actors can't be faster"
            )
        apart = _over_actors(recipe, cluster, there, seed=seed)
    return decide(here, apart)


def decide(here: Timed, apart: Timed) -> Choice:
    """The faster one; where it is close, the one that needs no Ray."""
    figures = f"a step takes {ms(here.seconds)} in one process and {ms(apart.seconds)} over actors"
    return ("actors" if apart.seconds < MARGIN * here.seconds else "in-process"), figures


def timed(company: Company, recipe: Recipe, *, seed: int) -> Timed:
    """Some steps of backtracking towards the teacher, submitted ahead as a run's are."""

    def batches_of(stage: str, step: int) -> list[Batch]:
        return micro_batches(Batch(seed, stage, step, 0, recipe.batch), recipe.micro_batches)

    company.wait(company.fake_score.begin(backtracking.STAGE, node=0))
    plan = backtracking.distribution_backtracking(
        company.cast, switches(0, 1, total=recipe.backtracking.steps), steps=recipe.backtracking.steps, batches_of=batches_of,
        fake_updates=recipe.backtracking.fake_updates, staleness=recipe.backtracking.staleness,
    )  # fmt: skip
    ends = [time.monotonic()]
    pending: deque[Any] = deque()
    for step in plan:
        pending.append(step)
        if len(pending) > AHEAD:
            company.wait(pending.popleft().results)
            ends.append(time.monotonic())
            if len(ends) == WARM_STEPS + 1:
                company.accounts()
        if len(ends) > WARM_STEPS + STEPS or ends[-1] - ends[0] > MOST_SECONDS:
            break
    company.wait([step.results for step in pending])
    if len(ends) == 1:  # a run of one step
        ends.append(time.monotonic())
    accounts, _ = company.accounts()
    made = max(len(ends) - 1 - WARM_STEPS, 1)
    busy = {name: account.busy / made for name, account in accounts.items()}
    busiest = max(busy, key=lambda name: busy[name])
    steps = list(itertools.pairwise(ends[min(WARM_STEPS, len(ends) - 2) :]))
    return Timed(statistics.median(late - early for early, late in steps), busiest, busy[busiest])


def _over_actors(recipe: Recipe, cluster: ClusterConfig, places: Places, *, seed: int) -> Timed:
    modules = [name.partition(":")[0] for name in recipe.modules]
    roles = cluster.roles.by_name()
    with attach(cluster.address, modules=modules) as session:
        patience = min(cluster.placement_timeout, LOCAL_PLACEMENT_SECONDS) if session.owned else cluster.placement_timeout
        placement = place(cast_of(roles), timeout=patience)
        try:
            company = on_ray(recipe, places, roles, placement, seed=seed, limits=cluster.recovery, audience=_Nobody())
            return timed(company, recipe, seed=seed)
        finally:
            placement.remove()


@contextlib.contextmanager
def _stage(storage: Folder) -> Iterator[Folder]:
    """A folder that all machines see, until the block ends."""
    name = f"trial-{uuid.uuid4().hex[:12]}"
    try:
        yield storage / name
    finally:
        with contextlib.suppress(CheckpointError):  # where nothing was written yet
            storage.remove(name)


class _Nobody:
    """Who hears of losses in a trial."""

    def recovered(self, event: Recovered) -> None: ...

    def say(self, text: str) -> None: ...

    def gives_up(self) -> bool:
        return False


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
