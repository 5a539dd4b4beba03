"""What Ray raises, read: whether a process or an object was lost, what was raised first, and how a user is to meet it."""

from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    RayActorError,
    RayError,
    RayTaskError,
)

from disback_ray.actors.turns import OutOfTurn
from disback_ray.algorithms.ranks import is_of_a_peer
from disback_ray.errors import ClusterError, DisbackError


def cause_of(error: BaseException) -> BaseException:
    """What was raised first: Ray wraps it once for each call that depended on it."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def is_gone(error: BaseException) -> bool:
    """Whether the process that was called is: then Ray raises it as it is, and wrapped where it was another's result that was lost."""
    return isinstance(error, (RayActorError, ActorUnschedulableError)) and not isinstance(error, RayTaskError)


def is_loss(error: BaseException) -> bool:
    """Whether all that is wrong is that a process or an object was lost, here or before: made again, the call may well succeed."""
    return isinstance(cause_of(error), (RayActorError, ActorUnschedulableError, ObjectLostError, OutOfTurn))


def is_of_another(error: BaseException) -> bool:
    """Whether a rank failed only because another one of its group is gone, failed itself, or didn't come."""
    cause = cause_of(error)
    return isinstance(cause, RuntimeError) and is_of_a_peer(cause)


def plain(error: BaseException) -> BaseException:
    """The error as a user is to meet it: the role's own, or Ray's in one line."""
    cause = cause_of(error)
    if isinstance(cause, DisbackError) or not isinstance(error, RayError):
        return cause
    if isinstance(error, RayTaskError) and not isinstance(cause, RayError):
        return error  # a bug of ours: with its traceback
    if isinstance(cause, (ObjectStoreFullError, OutOfDiskError)):
        return ClusterError(
            "Ray's object store is full, and so is the disk that it spills to: lower recovery.log_mb in the cluster file, "
            "free the disk of Ray's folder, or start Ray with a larger --object-store-memory"
        )
    return ClusterError(f"Ray: {' '.join(str(cause).split())[:300]}")


def error_of(ref: Any) -> RayError | None:
    """What went wrong, once the reference is there; its value must be small."""
    try:
        ray.get(ref)
    except RayError as error:
        return error.with_traceback(None)  # the frames that it came through would live as long as it, and all that they hold
    return None


def reason_of(error: BaseException) -> str:
    """Why a process was lost, in a few words: Ray tells it in a paragraph."""
    text = " ".join(str(error).split())
    for sign, reason in {
        "node has died": "its machine is gone",
        "low on memory": "its process was killed for want of memory",
        "temporarily unavailable": "it couldn't be reached",
    }.items():
        if sign in text:
            return reason
    return "its process died"


def parted(notes: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Those with a value, and those with an error."""
    good: list[Any] = []
    wrong: list[Any] = []
    for note in notes:
        (good if error_of(note) is None else wrong).append(note)
    return good, wrong
