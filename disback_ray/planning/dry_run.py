"""Plays two steps of Algorithm 2 with the very roles that a run has, on tensors without data: what each role holds and computes.

The first step makes the optimisers' moments; from the second on all steps are alike.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from disback_ray.actors.fake_score import FakeScore
from disback_ray.actors.parts import Places, parts
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.cast import Cast
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import Switch
from disback_ray.algorithms.vp_schedule import forget_tables
from disback_ray.config import Recipe
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.planning.meter import Meter, bytes_of, state_of
from disback_ray.planning.sketch import SketchedCopies, SketchedFolder, SketchedPrompts

FROZEN = ("teacher", "path_node")
CAST = (*FROZEN, "fake_score", "generator")
LCM_LORA = {
    "r": 64, "lora_alpha": 64,
    "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"],
}  # fmt: skip
ENDS = (0, 1, -1)
FEW = 3
"""So many micro-batches are played; what each further one adds is the difference between the last two. The second is no measure: with it
gradients are there from the start."""


@dataclass(frozen=True)
class Footprint:
    """What one role needs on its device in a step. Bytes: parameters (with buffers), optimiser, average (the EMA), the peak of all.

    The rest of the peak, working(), are gradients, activations and what the operators need. flops: of one step. peaks: of a step's first
    two calls of each method, and of its last.
    """

    parameters: int
    optimiser: int
    average: int
    peak: int
    flops: float
    peaks: Mapping[tuple[str, int], int] = field(default_factory=dict, compare=False)

    def working(self) -> int:
        return self.peak - self.parameters - self.optimiser - self.average


class Metered:
    """A role under its meter. peaks: see Footprint."""

    def __init__(self, role: Any, meter: Meter) -> None:
        self.role, self.meter = role, meter
        self.restart()

    def restart(self) -> None:
        """From here on all is counted anew."""
        self.meter.restart()
        self.peaks: dict[tuple[str, int], int] = {}
        self.step: dict[str, list[int]] = {}

    def end_step(self) -> None:
        for method, peaks in self.step.items():
            for place in ENDS:
                if -len(peaks) <= place < len(peaks):
                    self.peaks[method, place] = max(peaks[place], self.peaks.get((method, place), 0))
        self.step.clear()

    learn: Any = FakeScore.learn
    """Here, so that its fits are measured one by one."""

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            before, self.meter.peak = self.meter.peak, self.meter.live
            with self.meter:
                made = getattr(self.role, method)(*args, **kwargs)
            self.step.setdefault(method, []).append(self.meter.peak)
            self.meter.peak = max(before, self.meter.peak)
            if method == "commit":
                self.end_step()
            return made

        return call


def footprints(recipe: Recipe, spec: DenoiserSpec) -> dict[str, Footprint]:
    """Of each role of the cast. spec: the teacher's; nothing is read or written. Raises ConfigError where a role can't be built."""
    if recipe.micro_batches <= FEW:
        return _play(recipe, spec)
    size = recipe.batch // recipe.micro_batches
    fewer, few = (_play(_cut(recipe, parts, size), spec) for parts in (FEW - 1, FEW))
    return {role: _extrapolated(fewer[role], few[role], recipe.micro_batches - FEW) for role in few}


def _cut(recipe: Recipe, parts: int, size: int) -> Recipe:
    return recipe.model_copy(update={"batch": parts * size, "micro_batches": parts})


def _extrapolated(fewer: Footprint, few: Footprint, more: int) -> Footprint:
    """Each call's peak grows by itself: which of them is the largest may be another one with more micro-batches."""
    peaks = {call: peak + more * (peak - fewer.peaks.get(call, peak)) for call, peak in few.peaks.items()}
    return replace(few, peak=max(few.peak, *peaks.values()), flops=few.flops + more * (few.flops - fewer.flops), peaks=peaks)


def _play(recipe: Recipe, spec: DenoiserSpec) -> dict[str, Footprint]:
    """One step against node 1, and one against the teacher."""
    back, batch = recipe.backtracking, recipe.batch

    def batches_of(stage: str, step: int) -> list[Batch]:
        return micro_batches(Batch(0, stage, step, 0, batch), recipe.micro_batches)

    with _sketched(spec), FakeTensorMode(allow_non_fake_inputs=True), Meter():
        roles = _cast(recipe, spec)
        roles["fake_score"].begin(backtracking.STAGE, node=0)
        for role in roles.values():
            role.meter.adopt(state_of(network_of(role.role)))
            role.restart()
        steps = backtracking.distribution_backtracking(
            Cast(**roles), (Switch(0, 1), Switch(1, 0)),
            steps=2, batches_of=batches_of, fake_updates=back.fake_updates, staleness=min(back.staleness, 1),
        )  # fmt: skip
        for _ in steps:
            pass
        for role in roles.values():
            role.end_step()
        return {name: _footprint(role, steps=1 if name in FROZEN else 2) for name, role in roles.items()}


@contextmanager
def _sketched(spec: DenoiserSpec) -> Iterator[None]:
    """No GPU is looked for, nothing is moved, and prompts need no table.

    Module.to swaps a tensor without data, which torch refuses while others know it.
    """
    with ExitStack() as patches:
        patches.enter_context(mock.patch("torch.cuda.is_available", return_value=False))
        patches.enter_context(mock.patch.object(nn.Module, "to", lambda module, *_, **__: module))
        if isinstance(spec.network, TextUNetSpec):
            table = SketchedPrompts.of(spec.network.config)
            patches.enter_context(mock.patch("disback_ray.networks.text_unet.PromptTable", table))
        patches.callback(forget_tables)  # those that are made here have no data
        forget_tables()
        yield


def _cast(recipe: Recipe, spec: DenoiserSpec) -> dict[str, Metered]:
    folder = SketchedFolder("sketch", spec, dict(spec.build().state_dict()))
    student = _with_lora(recipe, spec)
    made = parts(recipe, Places(folder, folder, folder, student), seed=0)
    files = [*folder.weights.values(), *(student.weights.values() if student else [])]
    roles = {}
    for name in CAST:
        kind, arguments = made[name]
        if copies := arguments.get("copies"):
            arguments = arguments | {"copies": SketchedCopies.of(copies)}
        with Meter(files=files) as meter:
            roles[name] = Metered(kind(**arguments), meter)
    return roles


def _with_lora(recipe: Recipe, spec: DenoiserSpec) -> SketchedFolder | None:
    """The student's start, where that is the teacher with a LoRA of LCM-LoRA's rank and places."""
    if recipe.student.lora is None:
        return None
    assert isinstance(spec.network, TextUNetSpec)
    adapted = replace(spec, network=replace(spec.network, lora=LCM_LORA))
    return SketchedFolder("sketch", adapted, dict(adapted.build().state_dict()))


def _footprint(metered: Metered, *, steps: int) -> Footprint:
    role, meter = metered.role, metered.meter
    network = network_of(role)
    learner, average = getattr(role, "learner", None), getattr(role, "average", None)
    moments = bytes_of(_moments(learner.optimiser)) if learner else 0
    averaged = bytes_of(average.weights.values()) if average and average.decay else 0  # without decay it is the weights
    on_host = (moments if learner and learner.settings.offload else 0) + (
        averaged if average and role.settings.ema_on == "host" else 0
    )
    return Footprint(
        parameters=bytes_of(state_of(network)),
        optimiser=0 if learner and learner.settings.offload else moments,
        average=0 if average and role.settings.ema_on == "host" else averaged,
        peak=meter.peak - on_host,
        flops=meter.flops / steps,
        peaks={call: peak - on_host for call, peak in metered.peaks.items()},
    )


def network_of(role: Any) -> nn.Module:
    """All that it holds of networks: where one node of the path is blended into the next, two."""
    network: nn.Module = role.network if hasattr(role, "network") else role.denoiser
    left: nn.Module | None = getattr(role, "left", None)
    return nn.ModuleList([network, left]) if left is not None else network


def _moments(optimiser: Optimizer) -> Iterator[Tensor]:
    for entry in optimiser.state.values():
        yield from (value for value in entry.values() if isinstance(value, Tensor))
