"""cluster.yaml: where Ray is, what each role gets, where runs are stored."""

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field, model_validator

from disback_ray.algorithms.noise import Positive
from disback_ray.algorithms.ranks import Sharding
from disback_ray.config.base import Frozen
from disback_ray.networks.spec import Count

RANKED = ("fake_score", "generator")
Placement = Literal["actors", "in-process", "auto"]
MOST = 10_000
"""Of devices, processors and processes for one role: beyond what any cluster holds. Ray's own count of what is free overflows at 1e15,
and stays wrong for everybody on that cluster."""
Processes = Annotated[int, Ge(1), Le(MOST)]
LABEL = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
"""What Ray takes for a label's value."""


def _as_ray_counts(cpus: float) -> float:
    """In ten-thousandths: of anything finer Ray says that it has no such precision, once a role is to start."""
    return round(cpus, 4)


class RoleResources(Frozen):
    """What one role gets. gpus None: one each where the cluster has enough, an equal share where not, 0 where there are none.

    replicas: of a role that only looks. ranks: processes that train one role together, on a device each; sharding: each with the whole
    model (ddp) or with a part of it and of its optimiser (fsdp).
    """

    gpus: Annotated[float, Ge(0), Le(MOST)] | None = None
    cpus: Annotated[float, Ge(0.0001), Le(MOST), AfterValidator(_as_ray_counts)] = 0.25
    accelerator: Annotated[str, Field(pattern=LABEL)] | None = None
    replicas: Processes = 1
    ranks: Processes = 1
    sharding: Sharding = "ddp"
    share: Literal["teacher", "path_node", "fake_score", "generator", "evaluator"] | None = Field(
        default=None, validation_alias="with", serialization_alias="with"
    )

    @property
    def actors(self) -> int:
        """How many processes play the role: it has replicas, or ranks, or is alone."""
        return self.replicas * self.ranks

    @property
    def threads(self) -> int:
        """Of torch, in the role's process."""
        return max(1, int(self.cpus))


class Roles(Frozen):
    """One block a role.

    Before the cast is placed: teacher_trainer, Ray Train's workers, `replicas` of them; prompt_encoder, a pipeline's text encoders.
    """

    teacher: RoleResources = RoleResources()
    path_node: RoleResources = RoleResources()
    fake_score: RoleResources = RoleResources()
    generator: RoleResources = RoleResources()
    evaluator: RoleResources = RoleResources(gpus=0)
    teacher_trainer: RoleResources = RoleResources(cpus=1)
    prompt_encoder: RoleResources = RoleResources(cpus=1)

    def by_name(self) -> dict[str, RoleResources]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    @model_validator(mode="after")
    def _check(self) -> "Roles":
        for name in ("fake_score", "generator", "evaluator", "prompt_encoder"):
            if getattr(self, name).replicas != 1:
                why = "this role encodes all" if name == "prompt_encoder" else "this role holds the weights"
                raise ValueError(f"{name}.replicas: {getattr(self, name).replicas}; {why}: 1")
        for name, asked in self.by_name().items():
            if asked.ranks != 1 and name not in RANKED:
                raise ValueError(f"{name}.ranks: {asked.ranks}; ranks train together, and this role doesn't train: replicas")
            if asked.sharding != "ddp" and asked.ranks == 1:
                raise ValueError(f"{name}.sharding: {asked.sharding}; one rank has nothing to share: set ranks as well")
        return self


class RecoveryLimits(Frozen):
    """A role whose process is lost is put up again, unless that happens more than `losses` times within `within` seconds.

    hang: seconds after which a call that also takes 20 times the longest of its kind so far is given up, and its role taken as lost;
    so is a process without a sign of life. While it begins it has 5 times as long for that, and 20 times as long until its role is built.
    log_mb: what its calls since the last checkpoint may hold in the object store, which spills to disk; then there is a checkpoint.
    While that is written as much again may gather, and then the steps wait for it.
    on_nonfinite: what NaN or Inf in a step does: the run stops, or goes on without the step.
    """

    losses: Annotated[int, Ge(0)] = 5
    within: Positive = 60.0
    hang: Positive = 120.0
    log_mb: Count = 1024
    on_nonfinite: Literal["stop", "skip"] = "stop"


class Checkpoints(Frozen):
    """keep: so many of each stage stay in a run's folder, the newest ones; how often they are made is the recipe's to say."""

    keep: Count = 2


class ClusterConfig(Frozen):
    """cluster.yaml: where Ray is, what each role gets, where runs are stored, and what is done against losses.

    placement: where the roles play; auto tries which is faster, and the run's config.yaml keeps what was chosen.
    """

    address: str = "local"
    storage: str = "runs"
    placement: Placement = "actors"
    placement_timeout: Positive = 120.0
    recipe: str | None = None
    roles: Roles = Roles()
    recovery: RecoveryLimits = RecoveryLimits()
    checkpoints: Checkpoints = Checkpoints()
