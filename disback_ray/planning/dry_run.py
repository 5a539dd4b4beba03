"""Plays a step of Algorithm 2 with the very roles that a run has, on tensors without data: what each role holds and computes.

The optimisers' moments are made before it, so that it is like every step but a run's first.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from disback_ray.actors.fake_score import FakeScore
from disback_ray.actors.generator import Generator
from disback_ray.actors.parts import Places, parts
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.cast import Cast
from disback_ray.algorithms.learner import Learner
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import Switch
from disback_ray.algorithms.vp_schedule import forget_tables
from disback_ray.config import Recipe
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.planning.meter import Held, Meter, bytes_of, state_of
from disback_ray.planning.sketch import SketchedCopies, SketchedFolder, SketchedPrompts
from disback_ray.planning.stand_ins import FakeScoreStandIn, StandIn, TargetStandIn

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
    """What one role needs on its device in a step. Bytes: parameters (with buffers), gradients (those that there are at the peak),
    optimiser, average (the EMA), the peak of all. on_host: what of the last two lies in host memory, and isn't in any of these.

    flops: of one step. peaks: of a step's first two calls of each method, and of its last.
    """

    parameters: int
    gradients: int
    optimiser: int
    average: int
    peak: int
    flops: float
    peaks: Mapping[tuple[str, int], Held] = field(default_factory=dict, compare=False)
    on_host: int = 0

    @property
    def on_cores(self) -> int:
        """The peak where the device is the host: what was put into host memory is on the device all the same."""
        return self.peak + self.on_host

    @property
    def activations(self) -> int:
        """The rest of the peak: activations, and what the operators need beside them."""
        return self.peak - self.parameters - self.gradients - self.optimiser - self.average


class Metered:
    """A role under its meter. peaks: see Footprint."""

    def __init__(self, role: Any, meter: Meter) -> None:
        self.role, self.meter = role, meter
        self.restart()

    def restart(self) -> None:
        """From here on all is counted anew."""
        self.meter.restart()
        self.peaks: dict[tuple[str, int], Held] = {}
        self.step: dict[str, list[Held]] = {}

    def end_step(self) -> None:
        for method, peaks in self.step.items():
            for place in ENDS:
                if -len(peaks) <= place < len(peaks):
                    self.peaks[method, place] = max(peaks[place], self.peaks.get((method, place), peaks[place]))
        self.step.clear()

    learn: Any = FakeScore.learn
    descend_all: Any = Generator.descend_all
    """Here, so that their calls are measured one by one."""

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


class DryRuns:
    """Footprints of the roles of one teacher's recipes. What is built and asked alike is played once.

    spec: the teacher's; nothing is read or written.
    """

    def __init__(self, spec: DenoiserSpec) -> None:
        self.spec = spec
        self._played: list[tuple[Any, Footprint]] = []

    def footprints(self, recipe: Recipe, names: Collection[str] = CAST) -> dict[str, Footprint]:
        """Of the roles that are named. Raises ConfigError where one can't be built."""
        if recipe.micro_batches <= FEW:
            return self._play(recipe, names)
        size = recipe.batch // recipe.micro_batches
        fewer, few = (self._play(_cut(recipe, parts, size), names) for parts in (FEW - 1, FEW))
        return {name: _extrapolated(fewer[name], few[name], recipe.micro_batches - FEW) for name in names}

    def _play(self, recipe: Recipe, names: Collection[str]) -> dict[str, Footprint]:
        asked = _asked(recipe, self.spec)
        if missing := [name for name in names if self._known(asked[name]) is None]:
            self._played += [(asked[name], made) for name, made in play(recipe, self.spec, missing).items()]
        found = {name: self._known(asked[name]) for name in names}
        return {name: made for name, made in found.items() if made}

    def _known(self, asked: Any) -> Footprint | None:
        return next((footprint for known, footprint in self._played if known == asked), None)


def _asked(recipe: Recipe, spec: DenoiserSpec) -> dict[str, Any]:
    """All that a footprint depends on, of each role."""
    folder, back = SketchedFolder("sketch", spec, {}), recipe.backtracking
    made = parts(recipe, Places(folder, folder, folder, _with_lora(recipe, spec, {})), seed=0)
    return {name: (made[name], recipe.batch, recipe.micro_batches, back.fake_updates, back.staleness) for name in CAST}


def _cut(recipe: Recipe, parts: int, size: int) -> Recipe:
    return recipe.model_copy(update={"batch": parts * size, "micro_batches": parts})


def _extrapolated(fewer: Footprint, few: Footprint, more: int) -> Footprint:
    """Each call's peak grows by itself: which of them is the largest may be another one with more micro-batches."""
    peaks = {
        call: Held(*(now + more * (now - before) for now, before in zip(peak, fewer.peaks.get(call, peak), strict=True)))
        for call, peak in few.peaks.items()
    }
    peak = max(Held(few.peak, few.gradients), *peaks.values())
    flops = few.flops + more * (few.flops - fewer.flops)
    return replace(few, peak=peak.all, gradients=peak.gradients, flops=flops, peaks=peaks)


def play(recipe: Recipe, spec: DenoiserSpec, names: Collection[str]) -> dict[str, Footprint]:
    """A step of those roles, the targets' against each; with staleness two, of which the second learns what both have scored."""
    back = recipe.backtracking
    steps = 1 + min(back.staleness, 1)

    def batches_of(stage: str, step: int) -> list[Batch]:
        return micro_batches(Batch(0, stage, step, 0, recipe.batch), recipe.micro_batches)

    with _sketched(spec), FakeTensorMode(allow_non_fake_inputs=True):
        roles = _cast(recipe, spec, names)
        standing = StandIn(spec, recipe.wire_dtype)
        others: dict[str, Any] = dict.fromkeys(FROZEN, TargetStandIn(spec, recipe.wire_dtype))
        others |= {"fake_score": FakeScoreStandIn(spec, recipe.wire_dtype), "generator": standing}
        if learn := {name: role for name, role in roles.items() if name not in FROZEN}:
            cast = Cast(**others | learn)
            for _ in backtracking.distribution_backtracking(
                cast, (Switch(0, 0),), steps=steps, batches_of=batches_of, fake_updates=back.fake_updates, staleness=steps - 1
            ):
                pass
        if "path_node" in roles:
            roles["path_node"].load(1)
        for name in set(roles) & set(FROZEN):
            scores = [roles[name].score(standing.propose(batch)) for batch in batches_of(backtracking.STAGE, 0)]
            scores.clear()  # until here all of a step's are held
        for role in roles.values():
            role.end_step()
        return {name: _footprint(role, steps=1 if name in FROZEN else steps) for name, role in roles.items()}


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


def _cast(recipe: Recipe, spec: DenoiserSpec, names: Collection[str]) -> dict[str, Metered]:
    """The roles as they are between two steps."""
    with Meter():  # which knows an answer where data are asked for
        folder = SketchedFolder("sketch", spec, dict(spec.build().state_dict()))
        student = _with_lora(recipe, spec)
        made = parts(recipe, Places(folder, folder, folder, student), seed=0)
    files = [*folder.weights.values(), *(student.weights.values() if student else [])]
    roles = {}
    for name in names:
        kind, arguments = made[name]
        if copies := arguments.get("copies"):
            with Meter():
                arguments = arguments | {"copies": SketchedCopies.of(copies, folder.weights)}
        with Meter(files=files) as meter:
            roles[name] = role = Metered(kind(**arguments), meter)
        if name == "fake_score":
            role.begin(backtracking.STAGE, node=0)
        network = network_of(role.role)
        meter.adopt(state_of(network))
        if name not in FROZEN:
            meter.mark_gradients(network.parameters())
            with meter:
                _make_moments(role.role.learner)
        role.restart()
    return roles


def _make_moments(learner: Learner) -> None:
    """An update, of all tensors in one operation where torch has it: what it needs in passing is not measured."""
    for weight in learner.masters.weights:
        weight.grad = torch.zeros_like(weight)
    groups = learner.optimiser.param_groups
    for group in groups:
        group["fused"] = True
    learner.masters.step(learner.optimiser, version=0)
    for group in groups:
        group["fused"] = None


def _with_lora(recipe: Recipe, spec: DenoiserSpec, weights: dict[str, Tensor] | None = None) -> SketchedFolder | None:
    """The student's start, where that is the teacher with a LoRA of LCM-LoRA's rank and places. weights: such a network's by default."""
    if recipe.student.lora is None:
        return None
    assert isinstance(spec.network, TextUNetSpec)
    adapted = replace(spec, network=replace(spec.network, lora=LCM_LORA))
    return SketchedFolder("sketch", adapted, dict(adapted.build().state_dict()) if weights is None else weights)


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
        gradients=meter.peak.gradients,
        optimiser=0 if learner and learner.settings.offload else moments,
        average=0 if average and role.settings.ema_on == "host" else averaged,
        peak=meter.peak.all - on_host,
        flops=meter.flops / steps,
        peaks={call: Held(peak.all - on_host, peak.gradients) for call, peak in metered.peaks.items()},
        on_host=on_host,
    )


def network_of(role: Any) -> nn.Module:
    """All that it holds of networks: where one node of the path is blended into the next, two."""
    network: nn.Module = role.network if hasattr(role, "network") else role.denoiser
    left: nn.Module | None = getattr(role, "left", None)
    return nn.ModuleList([network, left]) if left is not None else network


def _moments(optimiser: Optimizer) -> Iterator[Tensor]:
    for entry in optimiser.state.values():
        yield from (value for value in entry.values() if isinstance(value, Tensor))
