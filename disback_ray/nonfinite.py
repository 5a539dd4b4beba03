"""NaN or Inf in a step: the keys of its samples are kept, and where that is asked for the run goes on without the step.

The roles may be at different points when it comes up, and some may have learnt the step already. So all of them go back to the last
checkpoint before it and play from there again, which gives the same weights, but for the step.
"""

from typing import Any

from disback_ray.errors import NonFiniteError
from disback_ray.run_folder import Summary
from disback_ray.storage import Folder

NONFINITE = "nonfinite.json"
"""The keys of the samples at which NaN or Inf came up: whoever draws them again sees it again."""
MOST, WITHIN = 10, 100
"""More skipped steps than so many of so many are no bad batch but a run that diverges."""


def write_keys(folder: Folder, error: NonFiniteError) -> None:
    """Raises CheckpointError."""
    folder.write_json(NONFINITE, {"error": str(error), **error.keys})


def skipped_steps(summary: Summary, stage: str) -> frozenset[int]:
    return frozenset(step["step"] for step in summary.skipped if step.get("played", step["stage"]) == stage)


def skip(summary: Summary, stage: str, error: NonFiniteError, *, keyed: str) -> int:
    """Notes that the step in which the error came up is left out; returns which it is, counted from 0.

    stage: that was played; keyed: what its noise is keyed by, which is another one where Algorithm 2's first steps are tried.
    Raises the error itself where it is of no step of the stage, and NonFiniteError where too many were left out before it.
    """
    keys: dict[str, Any] = {"stage": keyed} | error.keys
    step, known = keys.get("step"), skipped_steps(summary, stage)
    if keys["stage"] != keyed or not isinstance(step, int) or step in known:
        raise error
    if sum(step - WITHIN < other < step for other in known) >= MOST:
        raise NonFiniteError(f"{error}; {MOST} of the {WITHIN} steps before were skipped: it diverges", error.keys)
    summary.skipped.append(keys | ({} if stage == keyed else {"played": stage}) | {"error": str(error)})
    return step
