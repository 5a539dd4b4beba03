"""One large GPU: four roles in processes of their own, each capped at 24 GiB of it, against all roles in one process.

ImageNet-64-size EDM and SDXL-size U-Nets with random weights, in the precision of their recipes, for 20 steps of both stages: peak
memory of each role, step times, and the teacher's forward pass in float32, in bfloat16 and compiled. Needs no network. Where Ray
can't be imported, the one process is measured alone; where no GPU is at hand, that is said, and nothing is measured.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --tiny     # the same lines with small networks, also without a GPU: whether they run, and no figure
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import Result, measured, options, publish
from disback_ray.actors.calls import looks
from disback_ray.actors.parts import Places, parts
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.cast import Cast, Step
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.config import Recipe, load_recipe
from disback_ray.networks.precision import set_precision
from disback_ray.networks.prompt_table import INDEX
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.planning.published import teacher_spec
from disback_ray.planning.sketch import SketchedPrompts
from disback_ray.storage import Folder
from disback_ray.teachers.saved import load_denoiser, save_denoiser
from disback_ray.tiny import tiny_overrides

CASES = {"imagenet64-edm": "ImageNet-64-size EDM", "sdxl": "SDXL-size U-Net"}
STEPS, WARM_STEPS, FORWARDS = 20, 4, 10
CAP, MIB = 24 << 30, 1 << 20
LENGTH = (
    f"recording.steps={STEPS}", "recording.at=null", f"recording.every={STEPS // 2}", f"backtracking.steps={STEPS}",
    f"backtracking.steps_per_node={STEPS // 4}", "checkpoint_every=1000",
)  # fmt: skip
ROLES = ("teacher", "path_node", "fake_score", "generator")

Follow = Callable[[Iterator[Step], list[float]], None]


def recipe_of(name: str, folder: Folder, *, tiny: bool) -> Recipe:
    small = tiny_overrides(load_recipe(name), folder / "cache") if tiny else []
    if tiny and name == "sdxl":  # 8-bit moments are for parameters of a size, and bitsandbytes need not be here
        small += [f"{key}.states=fp32" for key in ("recording.optimiser", "backtracking.generator", "backtracking.fake_score")]
    return load_recipe(name, overrides=[*small, *LENGTH])


def prepare(recipe: Recipe, folder: Folder) -> None:
    """The teacher, with random weights and, where it takes prompts, one of random numbers."""
    spec, _ = teacher_spec(recipe)
    if isinstance(spec.network, TextUNetSpec):
        widths = SketchedPrompts.of(spec.network.config)
        rows: dict[str, Any] = {"tokens": torch.randn(1, 77, widths.width)} | (
            {"pooled": torch.randn(1, widths.pooled)} if widths.pooled else {}
        )
        proofs = [(folder / "prompts").write_tensors(f"{name}.safetensors", rows) for name in ("none", "0")]
        (folder / "prompts").write_json(INDEX, {"count": 1, "unconditional": proofs[0], "shards": proofs[1:]})
        spec = replace(spec, network=replace(spec.network, prompts=(folder / "prompts").uri))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_denoiser(folder / "teacher", spec, spec.build().state_dict())


def made(recipe: Recipe, folder: Folder) -> dict[str, Any]:
    places = Places(folder / "teacher", folder / "run", folder / "cache")
    return {name: part for name, part in parts(recipe, places, seed=0).items() if name in ROLES}


def played(cast: Cast, recipe: Recipe, *, wait: Callable[[Any], Any], follow: Follow) -> dict[str, float]:
    """Both stages → the median step of each."""

    def batches_of(stage: str, step: int) -> list[Batch]:
        return micro_batches(Batch(0, stage, step, 0, recipe.batch), recipe.micro_batches)

    marks = recipe.recording.marks
    plans: dict[str, Callable[[], Iterator[Step]]] = {
        degradation.STAGE: lambda: degradation.degradation_recording(cast, marks, batches_of=batches_of),
        backtracking.STAGE: lambda: backtracking.distribution_backtracking(
            cast, recipe.switches, steps=STEPS, batches_of=batches_of, fake_updates=recipe.backtracking.fake_updates
        ),
    }
    medians = {}
    for stage, plan in plans.items():
        wait(cast.fake_score.begin(stage, node=0 if stage == degradation.STAGE else len(marks)))  # type: ignore[attr-defined]
        ends: list[float] = []
        follow(plan(), ends)
        medians[stage] = statistics.median(late - early for early, late in itertools.pairwise(ends[WARM_STEPS:]))
    return medians


def together(recipe: Recipe, folder: Folder) -> dict[str, float]:
    """All roles in this process: step times and peak memory."""

    def follow(steps: Iterator[Step], ends: list[float]) -> None:
        for _ in steps:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.monotonic())

    cast = Cast(**{name: role(**arguments) for name, (role, arguments) in made(recipe, folder).items()})
    found = played(cast, recipe, wait=lambda value: value, follow=follow)
    return found | {"peak": _peak()}


def forwards(recipe: Recipe, folder: Folder) -> dict[str, float]:
    """Seconds of the teacher's forward pass on a micro-batch: as it is, in bfloat16, and compiled as well."""
    network = load_denoiser(folder / "teacher").cuda().eval().requires_grad_(False)
    spec: DenoiserSpec = teacher_spec(recipe)[0]
    size = recipe.batch // recipe.micro_batches
    x, sigma = torch.randn(size, *spec.shape, device="cuda"), torch.ones(size, device="cuda")
    condition = torch.zeros(size, dtype=torch.int64, device="cuda") if spec.classes else None

    def seconds(net: Callable[..., Any]) -> float:
        for _ in range(3):
            net(x, sigma, condition)
        torch.cuda.synchronize()
        began = time.monotonic()
        for _ in range(FORWARDS):
            net(x, sigma, condition)
        torch.cuda.synchronize()
        return (time.monotonic() - began) / FORWARDS

    with torch.no_grad():
        found = {"float32": seconds(network)}
        set_precision(network, "bf16")
        found["bfloat16"] = seconds(network)
        found["bfloat16, compiled"] = seconds(torch.compile(network))
    return found


def capped(role: Any) -> Any:
    """The role's class, on no more than 24 GiB of its GPU, and telling its peak."""

    class Capped(role):  # type: ignore[misc]  # in here, it travels by value
        def __init__(self, **arguments: Any) -> None:
            if torch.cuda.is_available():
                total = torch.cuda.get_device_properties(0).total_memory
                torch.cuda.set_per_process_memory_fraction(min(1.0, CAP / total))
            super().__init__(**arguments)

        @looks
        def peak(self) -> float:
            return _peak()

    Capped.__name__ = role.__name__
    return Capped


def _peak() -> float:
    """MiB that torch took of the GPU."""
    return torch.cuda.max_memory_reserved() / MIB if torch.cuda.is_available() else 0.0


def decoupled(recipe: Recipe, folder: Folder) -> dict[str, float]:
    """Each role in an actor: step times, and each one's peak."""
    import ray

    from benchmarks.stage import staged
    from disback_ray.actors.session import begin_private
    from disback_ray.config import RoleResources

    begin_private(num_cpus=8)
    try:
        share = RoleResources(cpus=1, gpus=0.25 if torch.cuda.is_available() else 0)
        kinds = {name: (capped(role), arguments) for name, (role, arguments) in made(recipe, folder).items()}
        with staged(kinds, dict.fromkeys(ROLES, share)) as stage:

            def follow(steps: Iterator[Step], ends: list[float]) -> None:
                stage.follow(steps, each=lambda: ends.append(time.monotonic()))

            found = played(stage.cast, recipe, wait=stage.company.wait, follow=follow)
            cast: Any = stage.cast
            return found | {role: stage.company.wait(getattr(cast, role).peak()) for role in ROLES}
    finally:
        ray.shutdown()


ARMS = {"together": together, "forwards": forwards, "decoupled": decoupled}


def arm(name: str, recipe: str, folder: str, *, tiny: bool) -> dict[str, float] | str:
    """What it measures, in a process of its own, which leaves the GPU empty; or why it didn't."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--arm", name, recipe, folder, *(["--tiny"] if tiny else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def results_of(name: str, *, tiny: bool) -> tuple[list[Result], dict[str, str]]:
    """The figures of one recipe's networks, and what failed."""
    title, found, failed = CASES[name], dict[str, dict[str, float]](), dict[str, str]()
    wanted = ["together", *(["forwards"] if torch.cuda.is_available() else [])]
    wanted += ["decoupled"] if importlib.util.find_spec("ray") else []
    with TemporaryDirectory() as folder:
        prepare(recipe_of(name, Folder.at(folder), tiny=tiny), Folder.at(folder))
        for each in wanted:
            answer = arm(each, name, folder, tiny=tiny)
            if isinstance(answer, str):
                failed[f"{title}, {each}"] = answer
            else:
                found[each] = answer
    one, ours = found.get("together", {}), found.get("decoupled", {})
    results = [measured(f"{title}: step of {stage}, one process", one[stage], "s") for stage in one if stage != "peak"]
    results += [measured(f"{title}: peak, one process", one["peak"], "MiB")] if one else []
    for key, value in ours.items():
        if key in ROLES:
            results.append(measured(f"{title}: peak of {key}, capped at 24 GiB", value, "MiB", baseline=one.get("peak") or None))
        else:
            results.append(measured(f"{title}: step of {key}, four processes", value, "s", baseline=one.get(key)))
    plain = found.get("forwards", {})
    results += [measured(f"{title}: forward, {how}", s, "s", baseline=plain["float32"]) for how, s in plain.items()]
    return results, failed


def main() -> None:
    parser = options(str(__doc__).splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small networks: whether it runs; its figures say nothing")
    parser.add_argument("--arm", nargs=3, metavar=("NAME", "RECIPE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        name, recipe, folder = given.arm
        print(json.dumps(ARMS[name](recipe_of(recipe, Folder.at(folder), tiny=given.tiny), Folder.at(str(Path(folder))))))
        return
    if not torch.cuda.is_available() and not given.tiny:
        print("no GPU is at hand: nothing was measured")
        publish("gpu", [], file=given.json, gpu="none at hand: nothing was measured")
        return
    results, failed = list[Result](), dict[str, str]()
    for name in CASES:
        more, wrong = results_of(name, tiny=given.tiny)
        results, failed = results + more, failed | wrong
    publish("gpu", results, file=given.json, failed=failed, tiny=given.tiny)


if __name__ == "__main__":
    main()
