"""What the driver remembers of a role's calls, so that a role whose process was lost can be given them again. Knows no Ray."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Nature = Literal["changes", "looks", "starts", "aside"]
"""changes: the role is another one after it (the default). looks: it isn't. starts: nothing that came before counts any more.
aside: it needs nothing of the role but its process, and is made while the role works on."""

STATE = ("changes", "starts")
"""What a role is, it is by these."""

Method = TypeVar("Method", bound=Callable[..., Any])
NOTHING = object()


def looks(method: Method) -> Method:
    """Marks a method that leaves its role as it was: it is not called again once its result is there."""
    method.nature = "looks"  # type: ignore[attr-defined]
    return method


def starts(method: Method) -> Method:
    """Marks a method after which nothing is left of what its role was before."""
    method.nature = "starts"  # type: ignore[attr-defined]
    return method


def aside(method: Method) -> Method:
    """Marks a method that doesn't touch what its role is: it can be called at any time, and waits for nothing but its arguments."""
    method.nature = "aside"  # type: ignore[attr-defined]
    return method


def nature_of(role: Callable[..., Any], method: str) -> Nature:
    nature: Nature = getattr(getattr(role, method, None), "nature", "changes")
    return nature


@dataclass(eq=False)
class Call:
    """One call of a role's method: a later value, which stays the same one whoever computes it in the end.

    role: the replica's name. index: its place among all calls of the run. turn: its place among those of the role's process.
    process: who was asked. note, ref: references to what it took and to what it gives. good: it has been made, and its result is
    there. missing: it was, and the machine that held it is gone. value: what the driver was given.
    """

    role: str
    method: str
    nature: Nature
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int
    turn: int = -1
    process: Any = None
    note: Any = None
    ref: Any = None
    good: bool = False
    missing: bool = False
    value: Any = field(default=NOTHING, repr=False)

    def needs(self) -> Iterator["Call"]:
        """The calls whose results are among its arguments."""
        return (given for given in (*self.args, *self.kwargs.values()) if isinstance(given, Call))


def calls_in(later: Any) -> Iterator[Call]:
    """The calls in a value, in nested lists and tuples too."""
    if isinstance(later, (list, tuple)):
        for each in later:
            yield from calls_in(each)
    elif isinstance(later, Call):
        yield later


def values_in(later: Any) -> Any:
    """The value with what the driver was given in place of its calls; tuples become lists."""
    if isinstance(later, (list, tuple)):
        return [values_in(each) for each in later]
    return later.value if isinstance(later, Call) else later


def to_be_made_again(
    logs: Mapping[str, Sequence[Call]], *, gone: Collection[str], failed: Collection[Call]
) -> tuple[list[Call], set[str]]:
    """The calls to be made again, in their order, and the roles that have to be built anew for it.

    logs: what each role was asked for, in order, at least from the last call that `starts` it. gone: roles without a process.
    failed: calls without a result. A role is also built anew where a result that it gave is missing and it may have changed since.
    """
    again, anew = set(failed), set(gone)
    size = -1
    while size != len(again) + len(anew):  # what is needed for one role may be another's to give
        size = len(again) + len(anew)
        for name in anew:
            again |= _state(logs[name], again)
        for call in list(again):
            again.update(need for need in call.needs() if need.missing)
        anew |= {call.role for call in again if call.missing and any(c.nature in STATE for c in logs[call.role])}
    return sorted(again, key=lambda call: call.index), anew


def _state(log: Sequence[Call], wanted: Collection[Call]) -> set[Call]:
    """The calls that bring a new role to where the first wanted one is made, and on to where the last one of the log left it."""
    first = min((call.index for call in log if call in wanted and call.nature != "aside"), default=math.inf)
    start = max((i for i, call in enumerate(log) if call.nature == "starts" and call.index <= first), default=0)
    return {call for call in log[start:] if call.nature in STATE}


def forget_before(log: Sequence[Call], index: int) -> list[Call]:
    """A role's log without what came before `index`, but for the last call that starts the role."""
    start = [call for call in log if call.index < index and call.nature == "starts"][-1:]
    return [*start, *(call for call in log if call.index >= index)]
