"""The faults of the chaos benchmark: as many as asked for, the same for a seed, and never the benchmark itself."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.chaos import __main__ as command
from benchmarks.chaos import driver, runs, table
from benchmarks.chaos import saboteur as chaos


def test_the_faults_of_a_run() -> None:
    for seed in range(50):
        for kills in range(1, 8):
            found = chaos.faults(random.Random(seed), kills=kills)
            assert found == chaos.faults(random.Random(seed), kills=kills)
            assert sum(1 + fault.again for fault in found) == kills
            assert len({(fault.stage, fault.step) for fault in found}) == len(found)
            for fault in found:
                assert 1 <= fault.step < runs.STEPS[fault.stage]
                assert fault.step % 10 == 0 or fault.moment != "checkpoint"
                assert fault.step in runs.SWITCHES[fault.stage] or fault.moment != "switch"


def test_no_process_is_no_target() -> None:
    """For kill(2), 0 is whoever asks, and all that were started with it."""
    assert not chaos.killed(None)


def test_the_driver_s_moments_come_up_one_after_the_other() -> None:
    order = list(runs.STEPS)
    for seed in range(50):
        found = driver.moments(random.Random(seed), count=4)
        assert found == driver.moments(random.Random(seed), count=4)
        assert found == sorted(set(found), key=lambda moment: (order.index(moment[0]), moment[1]))
        assert all(1 <= step < runs.STEPS[name] for name, step in found)


@pytest.mark.parametrize(("status", "digest"), [("complete", "other"), ("failed", "right"), ("complete", "right")])
def test_only_a_whole_run_with_the_same_weights_has_survived(tmp_path: Path, status: str, digest: str) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"status": status, "digest": digest, "recoveries": [{"seconds": 2.0}]}))
    stage, found = runs.Stage(tmp_path), runs.Outcome("a fault", injected=1)
    stage.judge(found, folder=tmp_path, truth="right")
    right = (status, digest) == ("complete", "right")
    assert (found.runs, found.survived, bool(found.failures), found.seconds) == (1, int(right), not right, [2.0])
    assert found.lost_steps == sum(runs.STEPS.values())
    met = {row.name: row.met for row in table.judged([found, runs.Outcome("another", skipped="no root")])}
    assert met["a fault: same weights"] is right
    assert met["what went wrong"] is right
    assert met["steps lost"] is False
    assert not any("another" in name for name in met)


def test_what_a_part_raises_is_its_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "PARTS", {"store": lambda stage: iter(()).__next__()})
    (found,) = command.played("store", runs.Stage(tmp_path))
    assert isinstance(found, runs.Outcome)
    assert found.failures
    with pytest.raises(SystemExit):
        command.main(["--only", "stores"])
