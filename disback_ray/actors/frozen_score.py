"""The two frozen roles: the teacher s_θ, and a node of the degradation path s_θ'_i. Stateless, but for which node is loaded."""

import torch
from torch import Tensor, nn

from disback_ray.actors.calls import looks, starts
from disback_ray.algorithms.losses import score_of
from disback_ray.algorithms.noise import NoiseLaw, add_noise
from disback_ray.algorithms.probing import score_at
from disback_ray.algorithms.records import Drawn, Probe, Sample, Score, WireDtype, rounded
from disback_ray.algorithms.sampling import draw_in_chunks
from disback_ray.device import best_device
from disback_ray.errors import NonFiniteError, VersionError
from disback_ray.networks.precision import FrozenPrecision, set_precision
from disback_ray.storage import Folder, digest
from disback_ray.teachers.drawing import draw_from_teacher, most_at_once
from disback_ray.teachers.guidance import NONE, guided
from disback_ray.teachers.mixture import ExactMixture
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.prefetch import Prefetch
from disback_ray.teachers.saved import load_denoiser

SCORE_TAG = "score"
"""Both scores of Eq. (8) are taken at the same x_t: both sides key their noise with this."""


class FrozenScore:
    """A denoiser without gradients. node: which of the path's it is, None while nothing is loaded; guidance: of its scores, 1 for none."""

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        noise: NoiseLaw,
        node: int | None,
        wire: WireDtype,
        precision: FrozenPrecision,
        guidance: float = NONE,
    ) -> None:
        self.device = best_device()
        self.precision = precision
        self.denoiser = self._frozen(denoiser)
        self.guidance = guidance
        self.noise = noise
        self.node = node
        self.wire = wire

    def _frozen(self, denoiser: nn.Module) -> nn.Module:
        set_precision(denoiser.requires_grad_(False), self.precision)
        return denoiser.to(self.device)

    @looks
    def score(self, sample: Sample) -> Score:
        """s_node at the sample's keyed x_t. Raises VersionError before a node is loaded, NonFiniteError at NaN or Inf."""
        return self._score(sample, self.denoiser, self.node)

    @torch.no_grad()
    def _score(self, sample: Sample, denoiser: nn.Module, node: int | None) -> Score:
        if node is None:
            raise VersionError("the path node was asked for a score before any node was loaded")
        x0 = sample.x0.to(self.device, torch.float32)
        noisy = add_noise(x0, sample.batch, law=self.noise, tag=SCORE_TAG)
        condition = None if sample.condition is None else sample.condition.to(self.device)
        value = score_of(guided(denoiser, self.guidance), noisy.x_t, noisy.sigma, condition=condition)
        if not torch.isfinite(value).all():
            raise NonFiniteError(f"the score of node {node} has NaN or Inf at step {sample.batch.step}")
        return Score(sample.batch, rounded(value, self.wire), node)

    @looks
    @torch.no_grad()
    def field(self, points: Tensor, *, sigma: float) -> Tensor:
        """The score field over points at one σ, for pictures: [M, ...] → [M, ...]."""
        x = points.to(self.device)
        level = torch.full((len(x),), sigma, device=self.device)
        return score_of(self.denoiser, x, level, condition=None)

    @looks
    def score_at(self, probe: Probe, *, at_once: int) -> Tensor:
        """Its score at a probe, to be looked at: [B, ...]."""
        return score_at(guided(self.denoiser, self.guidance), probe, at_once=at_once, device=self.device)

    @looks
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return digest(self.denoiser.state_dict())


class FrozenTeacher(FrozenScore):
    """s_θ, node 0: the last target, and what the path starts from."""

    def __init__(
        self,
        folder: Folder,
        *,
        noise: NoiseLaw,
        exact: ExactMixture | None = None,
        wire: WireDtype = "fp32",
        precision: FrozenPrecision = "fp32",
        guidance: float = NONE,
    ) -> None:
        """exact: where the mixture is known, its exact score, used in place of the folder's network.

        Raises CheckpointError where the folder holds no whole denoiser.
        """
        denoiser = exact or load_denoiser(folder)
        super().__init__(denoiser, noise=noise, node=0, wire=wire, precision=precision, guidance=guidance)

    @looks
    def draw(self, wanted: Drawn, *, seed: int, steps: int) -> Drawn:
        """The teacher's own samples for the shape and classes of `wanted`; steps: of those that take several."""

        def sample(z: Tensor, condition: Tensor | None) -> Tensor:
            return draw_from_teacher(self.denoiser, z, condition, steps=steps, guidance=self.guidance)

        most = most_at_once(self.denoiser)
        return Drawn(draw_in_chunks(sample, wanted, seed=seed, device=self.device, most=most), wanted.condition)


class PathNode(FrozenScore):
    """s_θ'_i: one node at a time, or two, where one is blended into the next. left_node: the one that is being left, None without."""

    def __init__(
        self,
        copies: PathCopies,
        *,
        noise: NoiseLaw,
        wire: WireDtype = "fp32",
        precision: FrozenPrecision = "fp32",
        guidance: float = NONE,
        two: bool = False,
    ) -> None:
        """two: whether it is to hold a second node, the one that is being left; a second network, from the start on.

        Raises CheckpointError where the teacher's folder, which says what network it is, is not whole; ConfigError without PEFT.
        """
        super().__init__(copies.build(), noise=noise, node=None, wire=wire, precision=precision, guidance=guidance)
        self.left = self._frozen(copies.build()) if two else None
        self.left_node: int | None = None
        self.copies = copies
        self.next = Prefetch(copies)

    @looks
    def prefetch(self, node: int) -> dict[str, float]:
        """Begins to read a node into host memory, beside the scoring, for the load() that is to come."""
        self.next.begin(node)
        return {}

    @looks
    def score(self, sample: Sample, *, node: int | None = None) -> Score:
        """As FrozenScore's. node: which of those that it holds, None for the target. Raises VersionError where it isn't held."""
        if node in (None, self.node):
            return super().score(sample)
        if self.left is None or node != self.left_node:
            raise VersionError(f"the path node was asked for a score of node {node}, and holds {self.node} and {self.left_node}")
        return self._score(sample, self.left, node)

    @starts
    def load(self, node: int, left: int | None = None) -> dict[str, float]:
        """Makes this node the target. Raises CheckpointError where its file is missing, damaged or doesn't fit.

        left: the one before it, kept to be blended into it. Else its weights are copied into the memory of those before it: the
        device holds no second node.
        """
        was, self.node, self.left_node = self.node, None, None  # a failed load must not leave the old node answering
        if left is not None:
            assert self.left is not None, "built for one node"
            self.denoiser, self.left = self.left, self.denoiser
            if was != left:  # it goes on from a checkpoint, or is made again
                self.copies.put(self.left, self.copies.read(left), node=left)
            self.left_node = left
        self.copies.put(self.denoiser, self.next.take(node), node=node)
        self.node = node
        return {}
