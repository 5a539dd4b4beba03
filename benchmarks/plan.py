"""`disback-ray plan` against what the roles really allocate: python -m benchmarks.plan --json FILE [--network ffhq|imagenet]

Each role of Algorithm 2 plays the two steps that the plan plays, in this process, and torch's profiler writes down what the CPU's
allocator gives and takes. No weights are needed: they are random.
"""

import gc
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import Result, measured, options, publish
from disback_ray.actors.parts import Places, parts
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.cast import Cast
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import Switch
from disback_ray.config import Recipe, load_recipe
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.planning.dry_run import CAST, DryRuns
from disback_ray.planning.published import teacher_spec
from disback_ray.storage import Folder
from disback_ray.teachers.path_nodes import save_node
from disback_ray.teachers.saved import save_denoiser

RECIPES = {"ffhq": "ffhq64-edm", "imagenet": "imagenet64-edm"}


class Watched:
    """A role whose calls are profiled, one by one. held, peak: bytes."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.held = self.peak = 0
        self.role = self._watch(build)

    def __getattr__(self, method: str) -> Any:
        return lambda *args, **kwargs: self._watch(lambda: getattr(self.role, method)(*args, **kwargs))

    def _watch(self, call: Callable[[], Any]) -> Any:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            made = call()
            gc.collect()
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        for event in sorted(events, key=lambda event: event.start_ns()):
            self.held += event.nbytes()
            self.peak = max(self.peak, self.held)
        return made


def allocated(recipe: Recipe, spec: DenoiserSpec, folder: Folder) -> dict[str, int]:
    """The peak of each of the roles, in bytes, of two steps. folder: an empty one.

    Not of the path's node, which is the teacher's on a device: here it reads the next node into the same memory.
    """
    gc.freeze()  # what there is by now is no role's, and needn't be looked through after each call
    weights = spec.build().state_dict()
    save_denoiser(folder / "teacher", spec, weights)
    save_node(folder / "run" / "path", 1, weights, step=1)
    del weights
    made = parts(recipe, Places(folder / "teacher", folder / "run", folder), seed=0)
    cast = {name: Watched(lambda name=name: made[name][0](**made[name][1])) for name in CAST}  # type: ignore[misc]
    cast["fake_score"].begin(backtracking.STAGE, node=0)
    for role in cast.values():
        role.peak = role.held

    def batches_of(stage: str, step: int) -> list[Batch]:
        return micro_batches(Batch(0, stage, step, 0, recipe.batch), recipe.micro_batches)

    plan = (Switch(0, 1), Switch(1, 0))
    for _ in backtracking.distribution_backtracking(Cast(**cast), plan, steps=2, batches_of=batches_of):
        pass
    gc.unfreeze()
    return {name: cast[name].peak for name in CAST if name != "path_node"}


def compare(label: str, recipe: Recipe, spec: DenoiserSpec) -> list[Result]:
    planned = DryRuns(spec).footprints(recipe)
    with tempfile.TemporaryDirectory() as folder:
        real = allocated(recipe, spec, Folder.at(folder))
    results = []
    for role in real:
        off = abs(planned[role].peak / real[role] - 1)
        results.append(measured(f"{label}, {role}: planned peak", planned[role].peak / 2**20, "MiB", baseline=real[role] / 2**20))
        results.append(measured(f"{label}, {role}: off by", off, "", at_most=0.1))
    return results


def main() -> None:
    parser = options("The plan's memory against what is really allocated.")
    parser.add_argument("--network", choices=[*RECIPES, "both"], default="both")
    parser.add_argument("--samples", type=int, default=2, help="in a micro-batch (2)")
    parser.add_argument(
        "--micro-batches", type=int, default=4, help="in a step (4): the plan plays three, and reckons with the rest"
    )
    given = parser.parse_args()
    torch.set_num_threads(2)
    results = []
    for label in RECIPES if given.network == "both" else [given.network]:
        parts = given.micro_batches
        settings = [f"batch={parts * given.samples}", f"micro_batches={parts}", *(f"precision.{role}=fp32" for role in CAST)]
        recipe = load_recipe(RECIPES[label], overrides=settings)
        results += compare(label, recipe, teacher_spec(recipe)[0])
    publish("plan", results, file=given.json)


if __name__ == "__main__":
    main()
