"""The fake score s_φ: the generator's own score, always in training. While the path is recorded it is the copy θ' that degrades."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from disback_ray.actors.calls import aside, looks, starts
from disback_ray.actors.frozen_score import SCORE_TAG
from disback_ray.actors.mishaps import told
from disback_ray.actors.snapshot import Snapshot
from disback_ray.actors.unlearnt import Unlearnt
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.learner import Learner, trained
from disback_ray.algorithms.losses import Weighting, blended, denoising_loss, score_difference, score_of
from disback_ray.algorithms.losses import score as score_by
from disback_ray.algorithms.noise import Batch, NoiseLaw, add_noise
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.path import Blend
from disback_ray.algorithms.probing import score_at
from disback_ray.algorithms.ranks import ALONE, Ranks
from disback_ray.algorithms.records import Field, Probe, Sample, Score, Scored, WireDtype, rounded
from disback_ray.device import best_device
from disback_ray.errors import NonFiniteError, VersionError
from disback_ray.networks.checkpointing import Checkpointing, checkpoint_gradients
from disback_ray.networks.precision import Precision, set_precision
from disback_ray.storage import Folder, digest
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.saved import restore

CHECKPOINT = "fake_score.safetensors"


@dataclass(frozen=True)
class StageSettings:
    """How s_φ is trained in one stage. batch: samples a step; updates: of s_φ for one of the generator's.

    staleness: the score of step k is of the weights that step k - staleness found; fused: one forward pass is both score and fit.
    """

    steps: int
    batch: int
    optimiser: OptimiserSettings
    updates: int = 1
    staleness: int = 0
    fused: bool = False


@dataclass(frozen=True)
class FakeScoreSettings:
    """stages: recording and backtracking; score_noise: of Eq. (8); fit_noise: of Eqs. (5) and (7); weighting: w(t)."""

    stages: dict[str, StageSettings]
    sigma_data: float | None
    score_noise: NoiseLaw
    fit_noise: NoiseLaw
    weighting: Weighting
    wire: WireDtype = "fp32"
    precision: Precision = "fp32"
    checkpointing: Checkpointing = False
    seed: int = 0


@dataclass(frozen=True)
class Taken:
    """s_φ at a sample's x_t, until the target's score is there. score, noise (x_t - x_0): [B, ...]; sigma: [B]."""

    score: Tensor
    noise: Tensor
    sigma: Tensor
    version: int


@dataclass(frozen=True)
class Forward:
    """A forward pass that is yet to be fitted, with its graph. denoised, x0: [B, ...]; sigma: [B]."""

    denoised: Tensor
    x0: Tensor
    sigma: Tensor


class FakeScore:
    """s_φ with its optimiser. Its version counts its updates within a stage; the generator's step k is its version k · updates."""

    def __init__(self, settings: FakeScoreSettings, *, copies: PathCopies, ranks: Ranks = ALONE) -> None:
        """ranks: which of the processes this is that play the role.

        Raises CheckpointError where the teacher's folder is not whole, ConfigError where the network can't be as the settings say.
        """
        self.device = best_device()
        self.settings = settings
        self.copies = copies
        self.ranks = ranks
        self.denoiser = self._ready(copies.build())
        self.stage = ""

    def _ready(self, denoiser: nn.Module) -> nn.Module:
        """In the settings' precision, on the device; where ranks share it out, whole until a stage begins."""
        set_precision(denoiser, self.settings.precision)
        if self.settings.checkpointing:
            checkpoint_gradients(denoiser, self.settings.checkpointing)
        return denoiser if self.ranks.sharded else denoiser.to(self.device)

    @starts
    def begin(self, stage: str, *, node: int | None) -> dict[str, float]:
        """Starts a stage from a node's weights, 0 being the teacher's (θ' ← θ, or φ ← θ'_N), with a fresh optimiser.

        node None: from random weights, keyed by the run's seed. Raises CheckpointError where the node is missing, damaged or doesn't fit.
        """
        if not node or self.ranks.sharded:
            self._renew(random=node is None)
        if node:
            self.copies.put(self.denoiser, self.copies.read(node), node=node)
        self._enter(stage)
        return {}

    def _renew(self, *, random: bool) -> None:
        """What was there goes before the next one comes."""
        self.stage, self.denoiser = "", nn.Identity()
        self.__dict__.pop("learner", None)
        self.denoiser = self._ready(self._random() if random else self.copies.build())

    def _random(self) -> nn.Module:
        keyed = Batch(self.settings.seed, backtracking.STAGE, 0, 0, 1).integers("fake_init", 1 << 62)
        return self.copies.build_random(int(keyed))

    def _enter(self, stage: str) -> None:
        plan = self.settings.stages[stage]
        self.stage = stage
        self.loss = 0.0
        self.last: dict[str, float] = {}
        self.taken: dict[Batch, Taken] = {}
        self.forwards: dict[Batch, Forward] = {}
        self.waiting = Unlearnt()
        updates, name = plan.steps * plan.updates, f"fake_score ({stage})"
        self.denoiser = self.ranks.settle(self.denoiser, self.device)
        self.learner = Learner(
            self.denoiser, plan.optimiser, updates=updates, name=name, seed=self.settings.seed, ranks=self.ranks
        )

    def _plan(self, sample: Sample) -> StageSettings:
        """Raises VersionError unless the sample is of this stage, and of the generator as that was at the sample's step."""
        plan = self.settings.stages.get(sample.batch.stage)
        if plan is None or sample.batch.stage != self.stage:
            raise VersionError(f"fake_score is in stage {self.stage!r}, got a sample of {sample.batch.stage!r}")
        trained = sample.batch.step if self.stage == backtracking.STAGE else 0  # Algorithm 1's generator is frozen
        if sample.generator_version != trained:
            raise VersionError(
                f"fake_score: a sample of step {sample.batch.step} came from version {sample.generator_version} of the generator"
            )
        return plan

    def _condition(self, sample: Sample) -> Tensor | None:
        return None if sample.condition is None else sample.condition.to(self.device)

    def score(self, sample: Sample) -> Scored:
        """Takes s_φ at the sample's keyed x_t, the target's, and keeps it for difference().

        Raises NonFiniteError, and VersionError unless the weights are those that step k - staleness began with.
        """
        plan = self._plan(sample)
        self.learner.require(max(sample.batch.step - plan.staleness, 0) * plan.updates)
        x0 = sample.x0.to(self.device, torch.float32)
        noisy = add_noise(x0, sample.batch, law=self.settings.score_noise, tag=SCORE_TAG)
        with torch.set_grad_enabled(plan.fused):
            denoised = self.denoiser(noisy.x_t, noisy.sigma, self._condition(sample))
        value = score_by(denoised.detach(), noisy.x_t, noisy.sigma)
        if not torch.isfinite(value).all():
            raise NonFiniteError(f"the fake score has NaN or Inf at step {sample.batch.step}: lower its lr, or set its clip")
        rounded_like_the_target_s = rounded(value, self.settings.wire).float()
        version = self.learner.version
        self.taken[sample.batch] = Taken(rounded_like_the_target_s, noisy.x_t - x0, noisy.sigma, version)
        if plan.fused:
            self.forwards[sample.batch] = Forward(denoised, x0, noisy.sigma)
        if plan.staleness:
            self.waiting.add(sample)
        return Scored(sample.batch, version)

    @torch.no_grad()
    def difference(
        self, current: Scored, wanted: Score, left: Score | None = None, *, node: int, blend: Blend | None = None
    ) -> Field:
        """Eq. (8): w(t) (s_φ - s_θ'_node) as a gradient for x_0, averaged over the step's batch.

        left, blend: the score of the target before, and how it is blended into the wanted one.
        Raises VersionError where a score is another batch's, another node's or of other weights, or was not taken.
        """
        batch, plan = current.batch, self.settings.stages[self.stage]
        for score in (wanted, left) if left else (wanted,):
            if batch != score.batch:
                raise VersionError(f"scores of other samples met: {batch}, {score.batch}")
        if batch not in self.taken:
            raise VersionError(f"fake_score: a difference is asked for, and no score was taken: {batch}")
        if wanted.node != node or current.version != self.taken[batch].version:
            raise VersionError(
                f"step {batch.step}: wanted node {node}, got {wanted.node}; "
                f"s_φ was taken at version {self.taken[batch].version}, got {current.version}"
            )
        if (left.node if left else None) != (blend.left if blend else None):
            raise VersionError(f"step {batch.step}: wanted {blend}, got {f'a score of node {left.node}' if left else 'none'}")
        self.learner.require(current.version)
        taken = self.taken.pop(batch)
        target = wanted.score.to(self.device, torch.float32)
        if left and blend:
            target = blended(left.score.to(self.device, torch.float32), target, share=blend.share)
        value = score_difference(
            taken.score,
            target,
            noise=taken.noise,
            sigma=taken.sigma,
            weighting=self.settings.weighting,
        )
        norm = float(value.square().mean().sqrt())
        return Field(batch, rounded(value / plan.batch, self.settings.wire), norm)

    def fit(self, sample: Sample, *, update: int = 0) -> dict[str, float]:
        """Adds the gradient of Eq. (5) on the sample, or of Eq. (7) while recording. Raises VersionError, NonFiniteError."""
        plan = self._plan(sample)
        self.learner.require(sample.batch.step * plan.updates + update)
        made = self._scored(sample) if plan.fused and update == 0 else self._forward(sample, update)
        losses = denoising_loss(made.denoised, made.x0, made.sigma, sigma_data=self.settings.sigma_data)
        loss = losses.sum() / plan.batch
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"the fake score's loss is {loss.item()} at {self.stage} step {sample.batch.step}: lower its lr, or set its clip"
            )
        loss.backward()
        self.loss += loss.item()
        self.learner.gather(sample.batch.size)
        if update + 1 == plan.updates:
            self.waiting.drop(sample.batch)
        return {}

    def _forward(self, sample: Sample, update: int) -> Forward:
        """D_φ at fresh t and ε, as the authors' trainer has it."""
        x0 = sample.x0.to(self.device, torch.float32)
        noisy = add_noise(x0, sample.batch, law=self.settings.fit_noise, tag=f"fit/{update}")
        return Forward(self.denoiser(noisy.x_t, noisy.sigma, self._condition(sample)), x0, noisy.sigma)

    def _scored(self, sample: Sample) -> Forward:
        """The pass that was the score as well: the same x_t, t and ε, as the authors' pseudo-code has it. Raises VersionError."""
        if sample.batch not in self.forwards:
            raise VersionError(f"fake_score: a fused fit is asked for, and no score was taken: {sample.batch}")
        return self.forwards.pop(sample.batch)

    @looks
    def unlearnt(self, batch: Batch) -> Sample:
        """A sample that was scored and is yet to be learnt, as a checkpoint brought it. Raises VersionError where it is not there."""
        return self.waiting.sample(batch)

    def commit(self, step: int, *, update: int = 0) -> dict[str, float]:
        """The optimiser's step with the gradients gathered. Raises VersionError, NonFiniteError."""
        plan = self.settings.stages[self.stage]
        version = step * plan.updates + update
        if self.learner.version != version + 1:
            made = self.learner.update(version, samples=plan.batch)
            (loss,) = self.ranks.sum(self.loss)
            self.last = {"fake_loss": loss, "fake_grad_norm": made["grad_norm"]}
            self.loss = 0.0
        return self.last

    def learn(self, *samples: Sample, step: int, update: int = 0) -> dict[str, float]:
        """A fit of each of the samples, and the commit: a step's work in one call. Raises what they raise."""
        for sample in samples:
            with told("fake_score", "fit", [sample]):
                self.fit(sample, update=update)
        with told("fake_score", "commit", [step]):
            return self.commit(step, update=update)

    def skip(self, step: int) -> dict[str, float]:
        """In place of a whole step: its versions pass, and no weights change. Raises VersionError."""
        updates = self.settings.stages[self.stage].updates
        for version in range(max(self.learner.version, step * updates), (step + 1) * updates):
            self.learner.skip(version)
        self.last = {}
        return {}

    @looks
    def keep_node(self, node: int, *, step: int) -> dict[str, float]:
        """Keeps the present weights as a node of the path (Algorithm 1). Raises VersionError, CheckpointError."""
        assert self.stage == degradation.STAGE, self.stage
        self.learner.require(step)
        weights = self.ranks.whole(self.copies.weights(self.denoiser))
        if self.ranks.first:
            self.copies.keep(weights, node, step=step, matrices=self.copies.matrices(self.denoiser))
        return {}

    @looks
    @torch.no_grad()
    def field(self, points: Tensor, *, sigma: float) -> Tensor:
        """The score field over points at one σ, for pictures: [M, ...] → [M, ...]."""
        x = points.to(self.device)
        level = torch.full((len(x),), sigma, device=self.device)
        return score_of(self.denoiser, x, level, condition=None)

    @looks
    def score_at(self, probe: Probe, *, at_once: int) -> Tensor:
        """s_φ at a probe, to be looked at: [B, ...]."""
        return score_at(self.denoiser, probe, at_once=at_once, device=self.device)

    @looks
    def snapshot(self) -> Snapshot:
        """Weights, optimiser and version; to be taken between steps."""
        tensors = self.learner.state() | self.waiting.state()
        return Snapshot(tensors if self.ranks.first else {})

    @aside
    def write(self, snapshot: Snapshot, folder: Folder) -> dict[str, Any]:
        """Writes a snapshot; returns the file's proof. Raises CheckpointError."""
        return snapshot.write(folder, CHECKPOINT)

    @starts
    def load(self, folder: Folder, *, stage: str, sha256: str) -> dict[str, float]:
        """Takes up a stage where a snapshot left it. Raises CheckpointError."""
        if self.ranks.sharded:  # a shard can't be sharded
            self._renew(random=False)
        self._enter(stage)
        restore(self.learner, self.waiting, folder=folder, name=CHECKPOINT, sha256=sha256)
        return {}

    @looks
    def digest(self) -> str:
        """SHA-256 of the weights that are trained."""
        return digest(self.ranks.whole(trained(self.denoiser)))
