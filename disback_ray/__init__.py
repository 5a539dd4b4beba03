"""disback-ray: one-step generators from diffusion models by DisBack, with each model on a small GPU of its own."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disback_ray.result import RunResult, load_run
    from disback_ray.running import run
    from disback_ray.teacher_model import load_teacher

__all__ = ["RunResult", "load_run", "load_teacher", "run"]
MADE_IN = {"RunResult": "result", "load_run": "result", "load_teacher": "teacher_model", "run": "running"}


def __getattr__(name: str) -> Any:
    """Imports on first use: `disback-ray --help` and the roles' own processes don't wait for all of it."""
    if name not in MADE_IN:
        raise AttributeError(f"module 'disback_ray' has no attribute {name!r}")
    return getattr(import_module(f"disback_ray.{MADE_IN[name]}"), name)
