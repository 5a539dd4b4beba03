"""What the roles' timesheets say together: how busy each was, which was the bottleneck, and one trace for Perfetto."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from disback_ray.actors.company import Company
from disback_ray.actors.timesheet import Account, Span
from disback_ray.following import Follower

TRACE = "trace.json"
TRAINING = ("generator", "fake_score", "teacher", "path_node")
WIRE = ("propose", "score", "difference")
"""The calls whose results other roles read: x_0, the target's score, and the difference."""


def summarise(accounts: Mapping[str, Account], *, steps: int, batch: int, seconds: float) -> dict[str, Any]:
    """For summary.json. accounts: of the roles by their seats' names, over `seconds` in which `steps` steps were made.

    busy: share of the time in calls; bottleneck: the busiest role; wire: bytes a sample that roles handed to roles.
    """
    roles = {name: account for name, account in accounts.items() if _role(name) in TRAINING}
    busy = {name: round(account.busy / seconds, 4) for name, account in roles.items()} if seconds else {}
    sent = {
        f"{name}.{method}": sum(a.totals[method].sent for n, a in roles.items() if _role(n) == name and method in a.totals)
        for name in TRAINING
        for method in WIRE
    }
    samples = max(steps * batch, 1)
    by_call = {call: round(amount / samples, 2) for call, amount in sent.items() if amount}
    return {
        "steps": steps,
        "seconds": round(seconds, 3),
        "busy": busy,
        "bottleneck": max(busy, key=lambda name: busy[name], default=None),
        "calls": {
            name: {method: {"calls": total.calls, "seconds": round(total.seconds, 4)} for method, total in account.totals.items()}
            for name, account in roles.items()
        },
        "wire": {"bytes_per_sample": round(sum(by_call.values()), 2), "by_call": by_call},
    }


@dataclass
class Trace:
    """Chrome's trace format, which ui.perfetto.dev and chrome://tracing read. One line a role, on the driver's clock."""

    lanes: dict[str, list[Span]] = field(default_factory=dict)
    dropped: int = 0

    def add(self, accounts: Mapping[str, Account], *, clocks: Mapping[str, float]) -> None:
        """clocks: seconds to add to each role's clock to have the driver's."""
        for name, account in accounts.items():
            lane, late = self.lanes.setdefault(name, []), clocks.get(name, 0.0)
            self.dropped += account.dropped
            for span in account.spans:
                lane.append(Span(span.method, span.began + late, span.ended + late, span.step, span.first, span.sent))

    def page(self, **facts: Any) -> dict[str, Any]:
        """trace.json. facts: what is to be read beside it, such as the bottleneck."""
        start = min((span.began for lane in self.lanes.values() for span in lane), default=0.0)
        events: list[dict[str, Any]] = []
        for number, (name, lane) in enumerate(self.lanes.items(), start=1):
            where = {"pid": number, "tid": 1}
            events.append({"ph": "M", "name": "process_name", "args": {"name": name}, **where})
            events.append({"ph": "M", "name": "process_sort_index", "args": {"sort_index": number}, **where})
            events += [_event(span, start) | where for span in lane]
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": facts | {"spans_dropped": self.dropped}}


class Books:
    """Opened and closed around a stage: what its calls cost."""

    def __init__(self, company: Company, follower: Follower) -> None:
        self.company, self.follower = company, follower
        self.trace = Trace()

    def open(self) -> None:
        """What was before counts no more."""
        self.company.accounts()
        self.follower.sheet.account()
        self.began, self.done = time.monotonic(), self.follower.settled

    def close(self, *, batch: int) -> dict[str, Any]:
        """See summarise(); batch: samples a step."""
        seconds, steps = time.monotonic() - self.began, self.follower.settled - self.done
        accounts, clocks = self.company.accounts()
        self.trace.add({"driver": self.follower.sheet.account()} | accounts, clocks=clocks)
        return summarise(accounts, steps=steps, batch=batch, seconds=seconds)


def _event(span: Span, start: float) -> dict[str, Any]:
    about = {"step": span.step, "first_sample": span.first, "bytes": span.sent or None}
    return {
        "ph": "X",
        "name": span.method,
        "ts": round((span.began - start) * 1e6, 1),
        "dur": round((span.ended - span.began) * 1e6, 1),
        "args": {key: value for key, value in about.items() if value is not None},
    }


def _role(seat: str) -> str:
    return seat.partition("/")[0]
