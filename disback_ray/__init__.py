"""disback-ray: one-step generators from diffusion models by DisBack, with each model on a small GPU of its own."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disback_ray.result import RunResult, load_run, load_teacher
    from disback_ray.running import run

__all__ = ["RunResult", "load_run", "load_teacher", "run"]


def __getattr__(name: str) -> Any:
    """Imports on first use: `disback-ray --help` and the roles' own processes don't wait for all of it."""
    if name == "run":
        from disback_ray.running import run

        return run
    if name in ("RunResult", "load_run", "load_teacher"):
        from disback_ray import result

        return getattr(result, name)
    raise AttributeError(f"module 'disback_ray' has no attribute {name!r}")
