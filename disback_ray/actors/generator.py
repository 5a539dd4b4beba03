"""The student G_stu: proposes samples, and descends the score differences that come back for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from disback_ray.actors.calls import aside, looks, starts
from disback_ray.actors.mishaps import told
from disback_ray.actors.snapshot import Snapshot
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.average import MovingAverage
from disback_ray.algorithms.learner import Learner, trained
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.ranks import ALONE, Ranks
from disback_ray.algorithms.records import Drawn, Field, Probe, Sample, WireDtype, rounded
from disback_ray.algorithms.sampling import draw_in_chunks
from disback_ray.device import best_device
from disback_ray.errors import NonFiniteError, VersionError
from disback_ray.evaluation.looks import Looks
from disback_ray.networks.checkpointing import Checkpointing, checkpoint_gradients
from disback_ray.networks.precision import Precision, set_precision
from disback_ray.networks.spec import GeneratorSpec
from disback_ray.storage import Folder, digest
from disback_ray.teachers.drawing import most_at_once
from disback_ray.teachers.saved import built, load_weights, restore
from disback_ray.teachers.saved_generator import DENOISER, adapted, base_of, save_generator

CHECKPOINT = "generator.safetensors"


@dataclass(frozen=True)
class GeneratorSettings:
    """steps, batch: of backtracking; ema, ema_ramp: the averaged weights' decay, 0 for none; ema_on: where they lie.

    graph: what a sample leaves until its field comes: its graph, or nothing, and then it is computed again from its keyed z.
    """

    spec: GeneratorSpec
    steps: int
    batch: int
    optimiser: OptimiserSettings
    ema: float
    seed: int
    wire: WireDtype = "fp32"
    precision: Precision = "fp32"
    checkpointing: Checkpointing = False
    graph: Literal["keep", "recompute"] = "keep"
    ema_on: Literal["device", "host"] = "device"
    ema_ramp: int = 10


class Generator:
    """G_stu with its optimiser and the moving average of its weights. Its version is the number of its updates."""

    def __init__(self, settings: GeneratorSettings, *, start: Folder | None, ranks: Ranks = ALONE) -> None:
        """start: the denoiser's folder that gives the first weights (the teacher's), None for random ones.

        ranks: which of the processes this is that play the role.
        Raises CheckpointError where the folder is not whole or its weights don't fit, ConfigError where the network can't be as the
        settings have it.
        """
        self.device = best_device()
        self.settings = settings
        self.first_weights = start
        self.ranks = ranks
        self._begin()

    def _begin(self) -> None:
        settings, ranks = self.settings, self.ranks
        network = (
            settings.spec.build(seed=settings.seed) if self.first_weights is None else self._started(settings, self.first_weights)
        )
        set_precision(network, settings.precision)
        if settings.checkpointing:
            checkpoint_gradients(network, settings.checkpointing)
        self.network = ranks.settle(network, self.device)
        self.learner = Learner(
            self.network, settings.optimiser, updates=settings.steps, name="generator", seed=settings.seed, ranks=ranks
        )
        host = torch.device("cpu") if settings.ema_on == "host" else None
        self.adapts = adapted(settings.spec) is not None
        self.average = MovingAverage(
            self.network, decay=settings.ema, ramp=settings.ema_ramp, home=host, ranks=ranks, whole=not self.adapts
        )
        self.graphs: dict[Batch, Tensor | None] = {}
        self.norms: list[float] = []
        self.last: dict[str, float] = {}

    @starts
    def rewind(self) -> dict[str, float]:
        """Back to the first weights, as if no step had been made. Raises CheckpointError where they are not whole any more."""
        self.network = nn.Identity()  # what was there goes before the next one comes
        del self.learner, self.average
        self._begin()
        return {}

    @staticmethod
    def _started(settings: GeneratorSettings, start: Folder) -> nn.Module:
        weights = {f"{DENOISER}{name}": tensor for name, tensor in load_weights(start).items()}
        return built(settings.spec, lambda: settings.spec.build(seed=settings.seed), weights, where=start.uri)

    def propose(self, batch: Batch) -> Sample:
        """x_0 = G(z) for the batch's keyed z and classes. While backtracking, its graph is kept until descend(), or made again there.

        Raises VersionError where the step is not the next one, NonFiniteError where a sample has NaN or Inf.
        """
        trains = batch.stage == backtracking.STAGE
        self.learner.require(batch.step if trains else 0)
        condition = self._condition(batch)
        keeps = trains and self.settings.graph == "keep"
        with torch.set_grad_enabled(keeps):
            x0 = self._sample(batch, condition)
        if not torch.isfinite(x0).all():
            raise NonFiniteError(f"the generator's samples have NaN or Inf at step {batch.step}: lower its lr, or set its clip")
        if trains:
            self.graphs[batch] = x0 if keeps else None
        return Sample(batch, rounded(x0.detach(), self.settings.wire), condition, self.learner.version)

    def _condition(self, batch: Batch) -> Tensor | None:
        spec = self.settings.spec
        return batch.integers("class", spec.classes).to(self.device) if spec.classes else None

    def _sample(self, batch: Batch, condition: Tensor | None) -> Tensor:
        z = batch.normal("z", self.settings.spec.shape).to(self.device)
        x0: Tensor = self.network(z, condition)
        return x0

    def descend(self, field: Field) -> dict[str, float]:
        """Back-propagates ∂L/∂x_0 = w(t)(s_φ - s_target) through the batch's own graph (Eq. 8; ∂x_t/∂x_0 = 1 under VE).

        Raises VersionError without that graph, NonFiniteError at NaN or Inf.
        """
        if field.batch not in self.graphs:
            raise VersionError(f"generator: a score difference came for samples that it doesn't hold: {field.batch}")
        gradient = field.gradient.to(self.device, torch.float32)
        if not torch.isfinite(gradient).all():
            raise NonFiniteError(f"the score difference has NaN or Inf at step {field.batch.step}")
        x0 = self.graphs.pop(field.batch)
        if x0 is None:
            self.learner.require(field.batch.step)  # autograd would see that kept weights have changed; here nobody else does
            x0 = self._sample(field.batch, self._condition(field.batch))
        x0.backward(gradient)
        self.norms.append(field.norm)
        self.learner.gather(field.batch.size)
        return {}

    def descend_all(self, *fields: Field, step: int) -> dict[str, float]:
        """A descent of each field that is left of a step, and the commit, in one call. Raises what they raise."""
        for field in fields:
            with told("generator", "descend", [field]):
                self.descend(field)
        with told("generator", "commit", [step]):
            return self.commit(step)

    def commit(self, step: int) -> dict[str, float]:
        """The optimiser's step and the average's, with the gradients gathered. Raises VersionError, NonFiniteError."""
        if self.learner.version != step + 1:
            made = self.learner.update(step, samples=self.settings.batch)
            self.average.update(step)
            squares, parts = self.ranks.sum(sum(norm**2 for norm in self.norms), len(self.norms))
            self.norms.clear()
            self.last = {"field_norm": (squares / parts) ** 0.5, "generator_grad_norm": made["grad_norm"]}
        return self.last

    def skip(self, step: int) -> dict[str, float]:
        """In place of a whole step: the version passes, and no weights change. Raises VersionError."""
        self.learner.skip(step)
        self.last = {}
        return {}

    @looks
    def draw(self, wanted: Drawn, *, seed: int) -> Drawn:
        """One-step samples of the averaged weights for the shape and classes of `wanted`."""
        if not self.ranks.sharded:
            return Drawn(draw(self.network, self.average.weights, wanted, seed=seed, device=self.device), wanted.condition)
        with self.ranks.lent(self.network, self.average.weights) as network:
            return Drawn(draw_in_chunks(network, wanted, seed=seed, device=self.device), wanted.condition)

    @looks
    def probe(self, drawn: Drawn, *, sigmas: Sequence[float], seed: int) -> Probe:
        """Where the scores for a look at samples are to be taken: on noise that is the same each time.

        Here and not where looks are evaluated: who scores would wait for the evaluator, and the next step for them.
        """
        return Looks(sigmas, seed=seed).probe(drawn)

    def _kept(self) -> dict[str, Tensor]:
        """The raw weights: all, or of an adapter on a base its own."""
        return self.ranks.whole(trained(self.network) if self.adapts else self.network.state_dict())

    @looks
    def averaged(self) -> Snapshot:
        """The averaged weights, for whoever draws with a copy of them."""
        weights = self.ranks.whole(self.average.weights)
        return Snapshot(weights if self.ranks.first else {})

    @looks
    def export(self, folder: Folder) -> dict[str, float]:
        """Writes what `load_generator` reads: averaged and raw weights, and the settings, last. Raises CheckpointError."""
        averaged, raw = self.ranks.whole(self.average.weights), self._kept()
        if self.ranks.first:
            save_generator(folder, self.settings.spec, averaged=averaged, raw=raw)
        return {}

    @looks
    def snapshot(self) -> Snapshot:
        """Weights, average, optimiser and version; to be taken between steps."""
        tensors = self.learner.state() | self.average.state()
        return Snapshot(tensors if self.ranks.first else {})

    @aside
    def write(self, snapshot: Snapshot, folder: Folder) -> dict[str, Any]:
        """Writes a snapshot; returns the file's proof, and the base's where it is an adapter's. Raises CheckpointError."""
        return snapshot.write(folder, CHECKPOINT) | base_of(self.settings.spec)

    @starts
    def load(self, folder: Folder, *, sha256: str) -> dict[str, float]:
        """Takes up where a snapshot left it. Raises CheckpointError."""
        restore(self.learner, self.average, folder=folder, name=CHECKPOINT, sha256=sha256)
        self.graphs.clear()
        self.norms.clear()
        self.last = {}
        return {}

    @looks
    def digest(self) -> str:
        """SHA-256 of the raw and the averaged weights; of an adapter's alone, where it is one."""
        return digest(self._kept(), self.ranks.whole(self.average.weights))


def inner(generator: nn.Module) -> nn.Module:
    """The denoiser or the plain network that a one-step generator is made of."""
    (network,) = generator.children()
    return network


def draw(
    network: nn.Module, weights: dict[str, Tensor], wanted: Drawn, *, seed: int, device: torch.device, first: int = 0
) -> Tensor:
    """G(z) with these weights for the shape and classes of `wanted`: [n, ...]."""

    there = {name: tensor.to(device) for name, tensor in weights.items()}

    def sample(z: Tensor, condition: Tensor | None) -> Tensor:
        generated: Tensor = torch.func.functional_call(network, there, (z, condition))
        return generated

    most = most_at_once(inner(network))
    return draw_in_chunks(sample, wanted, seed=seed, device=device, first=first, most=most)
