"""What the roles' timesheets say: who was busy, how many bytes a sample crossed, and a trace that Perfetto reads."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from disback_ray.actors import timesheet
from disback_ray.actors.timesheet import Account, Span, Timesheet, Total, size
from disback_ray.actors.wire import pack
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Field, Sample
from disback_ray.trace import Trace, summarise

BATCH = Batch(0, "backtracking", 3, 8, 4)


def test_a_timesheet_adds_up_calls_time_and_bytes_and_forgets_what_was_asked_for() -> None:
    sheet = Timesheet(trace=True)
    sample = Sample(BATCH, torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), 3)
    for given in ([BATCH], [Field(BATCH, torch.zeros(4, 2), 0.0)]):
        with sheet.call("propose", given) as gave:
            time.sleep(0.01)
            gave.append(sample)
    with pytest.raises(ZeroDivisionError), sheet.call("commit", [7]):
        raise ZeroDivisionError
    account = sheet.account()
    assert {name: total.calls for name, total in account.totals.items()} == {"propose": 2, "commit": 1}
    assert account.totals["propose"].sent == 2 * (4 * 2 * 4 + 4 * 8)
    assert account.busy == pytest.approx(sum(span.ended - span.began for span in account.spans))
    assert account.totals["propose"].seconds >= 0.02
    assert [(span.step, span.first) for span in account.spans] == [(3, 8), (3, 8), (7, None)]
    assert all(one.ended <= other.began for one, other in zip(account.spans, account.spans[1:], strict=False))
    assert sheet.account().totals == {}


def test_without_a_trace_nothing_is_kept_of_a_call_and_with_one_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timesheet, "KEPT_SPANS", 5)
    for traced, kept in ((False, 0), (True, 5)):
        sheet = Timesheet(trace=traced)
        for step in range(8):
            with sheet.call("commit", [step]):
                pass
        account = sheet.account()
        assert (len(account.spans), account.dropped, account.totals["commit"].calls) == (kept, 3 if traced else 0, 8)
    assert [span.step for span in account.spans] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_the_tensors_packed_or_not(dtype: torch.dtype) -> None:
    sample = Sample(BATCH, torch.zeros(4, 3, dtype=dtype), None, 3)
    assert size(sample) == size(pack(sample)) == 12 * dtype.itemsize
    assert size({"loss": 1.0}) == 0


def account(**seconds: float) -> Account:
    return Account({method: Total(2, spent, 4000) for method, spent in seconds.items()}, [], 0, 0.0)


def test_the_busiest_role_is_the_bottleneck_and_only_what_roles_read_is_wire() -> None:
    accounts = {
        "generator": account(propose=1.0, descend=2.0, draw=9.0), "fake_score/0": account(score=3.0, difference=0.5),
        "fake_score/1": account(score=3.0, fit=6.0), "teacher": account(score=1.0), "evaluator": account(measure=99.0),
    }  # fmt: skip
    found = summarise(accounts, steps=10, batch=8, seconds=20.0)
    assert found["busy"] == {"generator": 0.6, "fake_score/0": 0.175, "fake_score/1": 0.45, "teacher": 0.05}
    assert found["bottleneck"] == "generator"
    assert found["wire"] == {
        "bytes_per_sample": 250.0,
        "by_call": {"generator.propose": 50.0, "fake_score.score": 100.0, "fake_score.difference": 50.0, "teacher.score": 50.0},
    }
    assert found["calls"]["fake_score/1"]["fit"] == {"calls": 2, "seconds": 6.0}
    assert json.loads(json.dumps(found)) == found
    assert summarise({}, steps=0, batch=8, seconds=0.0)["bottleneck"] is None


def test_the_trace_is_on_one_clock(tmp_path: Path) -> None:
    """A role's clock that is 100 s behind the driver's."""
    trace = Trace()
    span = Span("fit", 5.0, 5.5, 2, 0, 0)
    trace.add({"driver": Account({}, [Span("submit", 104.0, 104.25, 2, None, 0)], 0, 0.0)}, clocks={})
    trace.add({"fake_score": Account({}, [span], 7, 0.0)}, clocks={"fake_score": 100.0})
    page = json.loads(json.dumps(trace.page(bottleneck="fake_score")))
    assert page["otherData"] == {"bottleneck": "fake_score", "spans_dropped": 7}
    lanes = {event["pid"]: event["args"]["name"] for event in page["traceEvents"] if event["name"] == "process_name"}
    calls = [event for event in page["traceEvents"] if event["ph"] == "X"]
    assert [(lanes[c["pid"]], c["name"], c["ts"], c["dur"], c["args"]) for c in calls] == [
        ("driver", "submit", 0.0, 250000.0, {"step": 2}),
        ("fake_score", "fit", 1000000.0, 500000.0, {"step": 2, "first_sample": 0}),
    ]


@pytest.mark.parametrize(("wire", "bytes_"), [("fp32", 4), ("bf16", 2)])
def test_a_run_counts_its_bytes_and_writes_its_trace(tiny: Any, tmp_path: Path, wire: str, bytes_: int) -> None:
    """Three tensors of a sample's size: x_0, the target's score and the difference; and each call of each role, in time."""
    found = tiny.run("ring8", tmp_path / "run", f"wire_dtype={wire}", "micro_batches=2", "evaluation.pictures=1", trace=True)
    devices = found.summary["devices"]
    assert devices["steps"] == 12
    assert devices["wire"]["bytes_per_sample"] == 3 * 2 * bytes_
    assert devices["bottleneck"] in ("generator", "fake_score", "teacher", "path_node")
    assert devices["calls"]["generator"]["propose"]["calls"] == devices["calls"]["fake_score"]["difference"]["calls"] == 24
    assert "How busy each role was" in (tmp_path / "run" / "report.html").read_text()
    page = json.loads((tmp_path / "run" / "trace.json").read_text())
    calls = [event for event in page["traceEvents"] if event["ph"] == "X"]
    names = {event["pid"]: event["args"]["name"] for event in page["traceEvents"] if event["name"] == "process_name"}
    assert set(names.values()) == {"driver", "teacher", "path_node", "fake_score", "generator", "evaluator"}
    learning = Counter(c["name"] for c in calls if names[c["pid"]] == "fake_score")
    assert (learning["fit"], learning["learn"]) == (2 * 8, 12), "recording, call by call, and backtracking"
    proposed = [c for c in calls if (names[c["pid"]], c["name"]) == ("generator", "propose")]
    assert {c["args"]["bytes"] for c in proposed} == {16 * 2 * bytes_}
    assert page["otherData"]["bottleneck"] == devices["bottleneck"]
