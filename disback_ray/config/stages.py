"""recipe.yaml's stages: the student, Algorithm 1 and Algorithm 2, a path that decides for itself, and what is measured meanwhile."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import model_validator

from disback_ray.algorithms import path as paths
from disback_ray.algorithms.losses import Weighting
from disback_ray.algorithms.noise import KarrasNoise, Positive
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.config.base import AnyNoise, Frozen, Whole
from disback_ray.config.networks import StudentNetwork
from disback_ray.evaluation.resizers import Mode
from disback_ray.networks.checkpointing import Checkpointing
from disback_ray.networks.spec import Count, MLPSpec, Samples
from disback_ray.teachers.node_storage import NodeKind, NodeStorage

FakeInit = Literal["path_end", "teacher", "random"]


class Student(Frozen):
    """The generator. network: 'teacher' (same network, same first weights) or one of its own with random weights, smaller for example.

    sigma_init: G(z) = D(σ_init z, σ_init). init_timestep: in its place, a time of a VP teacher's, whose network gets z itself then.
    lora: a LoRA's file on the teacher's network, the only part of the student that is trained.
    ema: the decay of the weights' moving average, which samples are drawn with; 0 for none.
    graph: a sample leaves its graph until its score difference comes, or is computed again then. checkpointing: of gradients; selective:
    only what is cheap is computed again.
    ema_ramp: the decay is at most (1 + i) / (ema_ramp + i) at update i. ema_on: where the averaged weights lie.
    """

    network: Literal["teacher"] | StudentNetwork = "teacher"
    sigma_init: Positive = 80.0
    init_timestep: Whole | None = None
    lora: str | None = None
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    ema_ramp: Annotated[int, Ge(2)] = 10
    graph: Literal["keep", "recompute"] = "keep"
    checkpointing: Checkpointing = False
    ema_on: Literal["device", "host"] = "device"

    @model_validator(mode="after")
    def _check(self) -> "Student":
        if self.ema_on == "host" and not self.ema:
            raise ValueError("ema_on: host: there is no average to be kept there: ema is 0")
        if self.checkpointing and isinstance(self.network, MLPSpec):
            raise ValueError(f"checkpointing: {str(self.checkpointing).lower()}: a plain MLP has no blocks: leave it out")
        return self


class Recording(Frozen):
    """Algorithm 1. A node every `every` steps, or after the steps that `at` names. steps 0: no path, the paper's 'w/o trajectory'.

    store: how nodes are kept on disk, and so what they are: in full, in bfloat16 or int8, or as the difference to the teacher, of rank
    store_rank (low_rank).
    """

    steps: Whole = 200
    every: Count | None = None
    at: tuple[Count, ...] | None = None
    store: NodeKind = "fp32"
    store_rank: Count = 8
    optimiser: OptimiserSettings

    @model_validator(mode="after")
    def _check(self) -> "Recording":
        if self.every is not None and self.at is not None:
            raise ValueError(f"every: {self.every}, and at: {list(self.at)}: give one of them, and null for the other")
        return self

    @property
    def storage(self) -> NodeStorage:
        return NodeStorage(self.store, self.store_rank)

    @property
    def marks(self) -> tuple[int, ...]:
        return paths.node_marks(self.steps, every=self.every, at=self.at)


class Backtracking(Frozen):
    """Algorithm 2. steps_per_node: for the nodes N-1 … 1 in this order; the teacher has what remains of `steps`.

    staleness: the score of step k is of the s_φ of step k - staleness. fuse_forward: s_φ scores and learns at the same t and ε in one
    forward pass, as the authors' pseudo-code does; their trainer, and the default, draws fresh ones to learn from.
    fake_init: where s_φ starts: at the path's last node (fitted to the initial generator, Algorithm 2), at the teacher, or random.
    blend: for so many steps from a switch on, the target's score is a mean of the node's before and its own, whose share rises.
    """

    steps: Count
    steps_per_node: Count | Annotated[tuple[Count, ...], MinLen(1)]
    generator: OptimiserSettings
    fake_score: OptimiserSettings
    fake_init: FakeInit = "path_end"
    fake_updates: Count = 1
    staleness: Whole = 0
    fuse_forward: bool = False
    blend: Whole = 0
    weighting: Weighting = "dmd"
    noise: AnyNoise = KarrasNoise()

    @model_validator(mode="after")
    def _check(self) -> "Backtracking":
        if self.staleness and self.fuse_forward:
            raise ValueError(f"staleness: {self.staleness}, and fuse_forward: what is learnt late can't be the pass that scored")
        return self


class AutoPath(Frozen):
    """`path: auto`: nodes lie geometrically early (unless recording.at or every places them), and only where they help.

    trial: so many steps are made without a path first, 0 for none: then the path is always recorded. Where a look at each quarter of
    them finds the samples at `gain` of their distance to the teacher's at the start, which the last one has to, or nearer than the look
    before, by 1 % at first and 3 % later, there is no path; else they are undone, and it is recorded. Then a quarter as many are made from
    its end to the teacher, without its nodes in between, and kept where they are 1 and 2 % nearer then. Distances are sliced.
    switch: a node is left after steps_per_node steps (timer), or once the score difference to it no longer falls, and after so many
    steps at the latest (plateau).
    """

    trial: Whole = 40
    gain: Annotated[float, Gt(0), Le(1)] = 0.7
    switch: Literal["timer", "plateau"] = "timer"


class Evaluation(Frozen):
    """every: steps between two measurements while training; samples: of the generator, for each; pictures: how many to show, 0 for none.

    reference: of images, a file of `disback-ray statistics`, which measures are taken against; extractor, weights, sha256, mode: what makes
    their features, as of `disback-ray evaluate`.
    """

    every: Count = 50
    samples: Annotated[Samples, Ge(2)] | None = None
    pictures: Whole = 100
    reference: str | None = None
    extractor: str = "inception"
    weights: str | None = None
    sha256: str | None = None
    mode: Mode = "clean"

    @model_validator(mode="after")
    def _check(self) -> "Evaluation":
        if self.reference is None and (self.extractor, self.weights, self.sha256, self.mode) != (
            "inception",
            None,
            None,
            "clean",
        ):
            raise ValueError("extractor, weights, sha256, mode: are for a reference: give evaluation.reference as well")
        return self
