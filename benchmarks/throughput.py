"""Decoupled against one process, on the same processors and with the same mathematics: real networks, real actors, the real schedule.

One process plays all roles with two threads; decoupled, each of three roles has an actor with one thread. Rounds of both take turns,
so that what else the machine does meets both.

    python -m benchmarks.throughput --json throughput.json
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
import torch

from benchmarks import Result, measured, options, publish
from benchmarks.stage import Stage, staged
from disback_ray.actors.company import Company, in_process
from disback_ray.actors.parts import Places, denoiser_spec, parts
from disback_ray.actors.session import begin_private
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import switches
from disback_ray.config import ClusterConfig, Recipe, RoleResources, load_recipe
from disback_ray.storage import Folder
from disback_ray.teachers.saved import save_denoiser

ROUNDS, WARM_STEPS = 3, 2
PLAYERS = ("teacher", "path_node", "fake_score", "generator")
LARGE = ("teacher.network.channels=32", "batch=64", "micro_batches=2")
"""A DDPM++ whose step takes more than 250 ms on two threads."""
SMALL = ("micro_batches=1",)


@dataclass
class Arm:
    """One way to play a recipe, at the step where it was left. company: of all roles; seconds: of each step so far."""

    stage: Stage
    recipe: Recipe
    done: int
    seconds: list[float]

    def play(self, steps: int) -> None:
        """So many steps more, the first of which fill the pipeline and are not counted."""
        until = self.done + WARM_STEPS + steps + 1
        ends: list[float] = []
        torch.set_num_threads(1)
        plan = backtracking.distribution_backtracking(
            self.stage.cast, switches(0, 1, total=10**9), steps=until, batches_of=self._batches, start=self.done
        )
        self.stage.follow(plan, each=lambda: ends.append(time.monotonic()))
        full = ends[WARM_STEPS - 1 : -1]
        self.seconds += [late - early for early, late in itertools.pairwise(full)]
        self.done = until

    def _batches(self, stage: str, step: int) -> list[Batch]:
        return micro_batches(Batch(0, stage, step, 0, self.recipe.batch), self.recipe.micro_batches)


def small_teacher(recipe: Recipe, folder: Path) -> Places:
    """The recipe's folders, with an untrained teacher: it takes as long as a trained one."""
    places = Places(*(Folder.at(folder / name) for name in ("teacher", "run", "cache")))
    spec = denoiser_spec(recipe)
    save_denoiser(places.teacher, spec, spec.build(seed=1).state_dict())
    return places


@contextmanager
def arms(recipe: Recipe, folder: Path) -> Iterator[tuple[Arm, Arm, Arm]]:
    """(one process with two threads, one with one, three actors of one thread each)."""
    places = small_teacher(recipe, folder)
    made = {name: part for name, part in parts(recipe, places, seed=0).items() if name in PLAYERS}
    roles = {name: RoleResources(cpus=1 if name != "path_node" else 0.01, gpus=0) for name in PLAYERS}
    with staged(made, roles) as decoupled:
        company = {threads: here(recipe, places, threads) for threads in (1, 2)}
        for stage in (*company.values(), decoupled):
            stage.company.wait(stage.cast.fake_score.begin(backtracking.STAGE, node=0))  # type: ignore[attr-defined]
        yield Arm(company[2], recipe, 0, []), Arm(company[1], recipe, 0, []), Arm(decoupled, recipe, 0, [])


def here(recipe: Recipe, places: Places, threads: int) -> Stage:
    asked = {name: RoleResources(cpus=threads) for name in ClusterConfig().roles.by_name()}
    company: Company = in_process(recipe, places, asked, seed=0)
    return Stage(company.cast, company)


def compared(title: str, recipe: Recipe, *, steps: int, goal: float | None) -> list[Result]:
    """Samples a second of each arm against the one process with two threads."""
    with TemporaryDirectory() as folder, arms(recipe, Path(folder)) as (together, alone, decoupled):
        for _ in range(ROUNDS):
            for arm in (together, alone, decoupled):
                arm.play(steps)
    base, one, ours = (statistics.median(arm.seconds) for arm in (together, alone, decoupled))
    name = f"{title}, step of {1000 * base:.0f} ms"
    return [
        measured(f"decoupled: {name}", recipe.batch / ours, "samples/s", baseline=recipe.batch / base, at_least=goal),
        measured(
            f"the bound, half a step of one thread: {name}", 2 * recipe.batch / one, "samples/s", baseline=recipe.batch / base
        ),
    ]


def main() -> None:
    parser = options(str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="measured in each of the rounds (8)")
    given = parser.parse_args()
    begin_private(num_cpus=8)
    try:
        results = compared("digits, wide", load_recipe("digits", overrides=LARGE), steps=given.steps, goal=1.15)
        results += compared("ring8", load_recipe("ring8", overrides=SMALL), steps=10 * given.steps, goal=None)
    finally:
        ray.shutdown()
    publish("throughput", results, file=given.json)


if __name__ == "__main__":
    main()
