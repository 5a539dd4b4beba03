"""What a recipe and a cluster file have to agree on, said before anything starts."""

from typing import Any

from disback_ray.config.cluster import RANKED, ClusterConfig
from disback_ray.config.recipe import Recipe
from disback_ray.config.teacher import Teacher
from disback_ray.errors import ConfigError


def check_agreement(recipe: Recipe, cluster: ClusterConfig) -> None:
    """Raises ConfigError."""
    workers = cluster.roles.teacher_trainer.replicas
    if isinstance(recipe.teacher, Teacher) and workers > recipe.teacher.training.batch:
        raise ConfigError(
            f"roles.teacher_trainer.replicas: {workers} workers for teacher.training.batch: {recipe.teacher.training.batch}"
        )
    for name in RANKED:
        role = getattr(cluster.roles, name)
        if recipe.micro_batches % role.ranks:
            raise ConfigError(
                f"micro_batches: {recipe.micro_batches} can't be shared out among roles.{name}.ranks: {role.ranks}: "
                f"each rank takes whole micro-batches; set micro_batches to a multiple of {role.ranks}"
            )
        for key, value, plain in _not_in_shards(recipe, name) if role.sharding == "fsdp" else ():
            if value != plain:
                raise ConfigError(f"{key}: {value}: not with roles.{name}.sharding: fsdp; leave one of them out")
    if recipe.backtracking.staleness and cluster.roles.fake_score.ranks > 1:
        raise ConfigError(
            f"backtracking.staleness: {recipe.backtracking.staleness}: not with roles.fake_score.ranks: "
            f"{cluster.roles.fake_score.ranks}: leave one of them out"
        )


def _not_in_shards(recipe: Recipe, name: str) -> list[tuple[str, Any, Any]]:
    """(key, its value, the only one that a role can have whose weights and moments FSDP shares out)."""
    back = recipe.backtracking
    own: tuple[str, Any, Any]
    if name == "generator":
        learns, own = {"backtracking.generator": back.generator}, ("student.ema_on", recipe.student.ema_on, "device")
    else:
        learns = {"recording.optimiser": recipe.recording.optimiser, "backtracking.fake_score": back.fake_score}
        own = ("fake_score.lora", recipe.fake_score.lora, None)
    precision = getattr(recipe.precision, name)
    found: list[tuple[str, Any, Any]] = [own, (f"precision.{name}", precision, "bf16" if precision == "bf16" else "fp32")]
    for key, settings in learns.items():
        found += [(f"{key}.states", settings.states, "fp32"), (f"{key}.offload", settings.offload, False)]
    return found
