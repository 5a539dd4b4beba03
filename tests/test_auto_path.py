"""`path: auto`: a trial without a path, what it decides, and that a run that was killed anywhere ends as one that wasn't."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from disback_ray import running
from disback_ray.actors import parts
from disback_ray.actors.fake_score import FakeScore
from disback_ray.algorithms import path
from disback_ray.algorithms.records import Sample
from disback_ray.auto_path import undone_stages
from disback_ray.comparison.arms import ARMS
from disback_ray.errors import ConfigError, NonFiniteError
from disback_ray.evaluation.sliced import sliced_distance
from disback_ray.progress import Silent

PLAIN = ["evaluation.pictures=0", "checkpoint_every=1"]
DOES_NOT = "path={trial: 4, gain: 1.0}"
QUICK = "backtracking.generator.lr=1.0e-2"
PLATEAU = ["path={trial: 1, gain: 1.0e-9, switch: plateau}", "backtracking.steps=20", "backtracking.steps_per_node=3"]


class Killed(Silent):
    """Ends the run at once when a step of a stage is done: what has not been written is lost."""

    def __init__(self, stage: str, step: int) -> None:
        self.moment, self.name = (stage, step), ""

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None:
        self.name = name

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        if (self.name, done) == self.moment:
            raise KeyboardInterrupt


@pytest.fixture
def killed(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def play(out: Path, moments: list[tuple[str, int]], *settings: str) -> None:
        for moment in moments:
            with monkeypatch.context() as patched:
                patched.setattr(running, "Silent", lambda moment=moment: Killed(*moment))
                with pytest.raises(KeyboardInterrupt):
                    tiny.run("ring8", out, *settings)

    return play


def stages(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        found.setdefault(row["stage"], []).append((row["step"], row["node"]))
    return found


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that finds the samples no further away is good enough: in so few steps they come hardly nearer."""
    monkeypatch.setattr(path, "NEARER_AT_FIRST", 1.0)
    monkeypatch.setattr(path, "NEARER", 1.0)


def test_trials_that_led_nowhere_leave_no_trace(ring8: Path, tiny: Any, tmp_path: Path, killed: Callable[..., None]) -> None:
    """Undone at the first look, both are followed by the very run that the fixed path makes."""
    out, auto = tmp_path / "run", "path={trial: 8}"
    moments = [("trying without a path", 1), ("recording", 2), ("trying without the path's nodes", 1), ("backtracking", 2)]
    killed(out, moments, *PLAIN, auto)
    found = tiny.run("ring8", out, *PLAIN, auto)
    made = stages(tiny.rows(out))
    assert (made["trial"], made["warm"]) == ([(1, 0), (2, 0)], [(1, 0)])
    assert [row for row in tiny.rows(out) if row["stage"] not in ("trial", "warm")] == tiny.rows(ring8)
    kept = tiny.summary(ring8)
    assert (found.summary["digest"], found.summary["switches"]) == (kept["digest"], kept["switches"])
    trial = found.summary["trial"]
    assert (trial["path"], [step for step, _ in trial["apart"]]) == (True, [0, 2])
    assert trial["warm"]["path"], trial
    assert trial["warm"]["apart"][0] == trial["apart"][0], "the samples were those of the start again"
    assert undone_stages(trial) == ["trial", "warm"]
    assert not list((out / "samples").glob("*")) if (out / "samples").exists() else True


@pytest.mark.usefixtures("patient")
def test_nodes_that_are_not_wanted_are_left_out(
    tiny: Any, tmp_path: Path, killed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """s_φ begins at the path's end, and the teacher is the target from the first step on."""
    began: list[tuple[str, int | None]] = []
    begin = FakeScore.begin
    monkeypatch.setattr(
        FakeScore, "begin", lambda role, stage, *, node: (began.append((stage, node)), begin(role, stage, node=node))[1]
    )
    settings = [
        *PLAIN,
        "path={trial: 8, gain: 1.0e-9}",
        QUICK,
    ]  # nothing is as good as that: the first trial is undone at its end
    whole = tiny.run("ring8", tmp_path / "whole", *settings)
    assert began == [("backtracking", 0), ("recording", 0), ("backtracking", 3)]
    rows = stages(tiny.rows(tmp_path / "whole"))
    assert (len(rows["trial"]), rows["warm"]) == (8, [(1, 0), (2, 0)])
    assert rows["backtracking"] == [(step, 0) for step in range(3, 13)]
    trial = whole.summary["trial"]
    assert ([step for step, _ in trial["apart"]], trial["path"], trial["warm"]["path"]) == ([0, 2, 4, 6, 8], True, False)
    assert undone_stages(trial) == ["trial"]
    assert whole.summary["digest"] == digest_of(tiny, "warm", tmp_path)
    out = tmp_path / "killed"
    killed(out, [("trying without a path", 5), ("trying without the path's nodes", 1), ("backtracking", 6)], *settings)
    tiny.run("ring8", out, *settings)
    found = tiny.summary(out)
    assert (found["digest"], found["trial"]) == (whole.summary["digest"], trial)
    assert tiny.rows(out) == tiny.rows(tmp_path / "whole")


def digest_of(tiny: Any, arm: str, tmp_path: Path) -> str:
    """Of that arm of a comparison, as it is played there."""
    return str(tiny.run("ring8", tmp_path / arm, *PLAIN, QUICK, *ARMS[arm]).digest)


class Odd(FakeScore):
    """One to which a step of the trial, counted from 0, gives a loss of NaN."""

    def fit(self, sample: Sample, *, update: int = 0) -> dict[str, float]:
        if (sample.batch.stage, sample.batch.step) == ("backtracking", 2):
            sample = replace(sample, x0=sample.x0 * math.nan)
        return super().fit(sample, update=update)


@pytest.mark.usefixtures("patient")
def test_a_step_of_the_trial_with_nan_is_skipped_too(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that stops there, and goes on to skip it, is the one that skipped it from the start."""
    monkeypatch.setitem(parts.CLASSES, "fake_score", Odd)
    settings, skips = [*PLAIN, DOES_NOT, QUICK], "cluster.recovery.on_nonfinite=skip"
    found = tiny.run("ring8", tmp_path / "run", *settings, skips)
    assert [(step["played"], step["stage"], step["step"]) for step in found.summary["skipped"]] == [("trial", "backtracking", 2)]
    assert {row["step"] for row in tiny.rows(tmp_path / "run") if row["fake_loss"] is None} == {3}
    with pytest.raises(NonFiniteError, match="backtracking step 2"):
        tiny.run("ring8", tmp_path / "other", *settings)
    assert tiny.run("ring8", tmp_path / "other", *settings, skips).summary["digest"] == found.summary["digest"]


@pytest.mark.usefixtures("patient")
def test_a_trial_that_went_well_is_gone_on_with(tiny: Any, tmp_path: Path, killed: Callable[..., None]) -> None:
    settings = [*PLAIN, DOES_NOT, QUICK]
    whole = tiny.run("ring8", tmp_path / "whole", *settings)
    trial = whole.summary["trial"]
    assert [step for step, _ in trial["apart"]] == [0, 1, 2, 3, 4]
    assert trial["path"] is False
    assert undone_stages(trial) == []
    assert not (tmp_path / "whole/path").exists(), "nothing is paid for a path"
    assert whole.summary["digest"] == digest_of(tiny, "baseline", tmp_path)
    assert stages(tiny.rows(tmp_path / "whole")) == {
        "trial": [(step, 0) for step in range(1, 5)], "backtracking": [(step, 0) for step in range(5, 13)],
    }  # fmt: skip
    out = tmp_path / "killed"
    killed(out, [("trying without a path", 3), ("backtracking", 6), ("backtracking", 10)], *settings)
    tiny.run("ring8", out, *settings)
    tiny_summary = tiny.summary(out)
    assert (tiny_summary["digest"], tiny_summary["trial"]) == (whole.summary["digest"], trial)
    assert tiny.rows(out) == tiny.rows(tmp_path / "whole")


def test_a_node_is_left_by_what_was_seen_of_it(tiny: Any, tmp_path: Path, killed: Callable[..., None]) -> None:
    """Killed between the look and the switch that it decides."""
    whole = tiny.run("ring8", tmp_path / "whole", *PLAIN, *PLATEAU)
    assert whole.summary["switches"] == [{"step": 0, "node": 2}, {"step": 7, "node": 1}, {"step": 12, "node": 0}]
    rows = [row for row in tiny.rows(tmp_path / "whole") if row["stage"] == "backtracking"]
    assert [row["node"] for row in rows] == [2] * 7 + [1] * 5 + [0] * 8
    assert [row["step"] for row in rows if row["target_gap"] is not None] == [5, 10]
    out = tmp_path / "killed"
    killed(out, [("backtracking", 6), ("backtracking", 8)], *PLAIN, *PLATEAU)
    shutil.copytree(out, tmp_path / "poorer")
    tiny.run("ring8", out, *PLAIN, *PLATEAU)
    assert tiny.summary(out)["digest"] == whole.summary["digest"]
    assert tiny.rows(out) == tiny.rows(tmp_path / "whole")

    (tmp_path / "poorer/metrics.parquet").unlink()  # what was seen is in the checkpoint, too
    killed(tmp_path / "poorer", [("backtracking", 15)], *PLAIN, *PLATEAU)
    shutil.rmtree(tmp_path / "poorer/path")  # the teacher is the target by now
    assert tiny.run("ring8", tmp_path / "poorer", *PLAIN, *PLATEAU).summary["digest"] == whole.summary["digest"]


def test_killed_again_while_a_damaged_node_is_recorded_again(
    ring8: Path, tiny: Any, tmp_path: Path, killed: Callable[..., None]
) -> None:
    """No row of the recording is missed, though the node is whole again and a checkpoint of its end is there."""
    out = tmp_path / "run"
    killed(out, [("backtracking", 6)], *PLAIN)
    node = out / "path/node-1.safetensors"
    node.write_bytes(node.read_bytes()[:-20])
    killed(out, [("recording", 5)], *PLAIN)
    tiny.run("ring8", out, *PLAIN)
    assert tiny.rows(out) == tiny.rows(ring8)
    assert tiny.summary(out)["digest"] == tiny.summary(ring8)["digest"]


def test_nodes_stored_smaller_are_what_everybody_reads(
    ring8: Path, tiny: Any, tmp_path: Path, killed: Callable[..., None]
) -> None:
    """Also s_φ, which has just been the last of them in full: else a run that was killed would start it elsewhere."""
    settings = [*PLAIN, "recording.store=int8"]
    whole = tiny.run("ring8", tmp_path / "whole", *settings)
    rows, full = tiny.rows(tmp_path / "whole"), tiny.rows(ring8)
    assert rows[:8] == full[:8], "recording itself goes on in full"
    assert rows[8]["fake_loss"] != full[8]["fake_loss"], "s_φ starts from what was kept"
    out = tmp_path / "killed"
    killed(out, [("recording", 6), ("backtracking", 1), ("backtracking", 6)], *settings)
    tiny.run("ring8", out, *settings)
    assert tiny.summary(out)["digest"] == whole.summary["digest"]
    assert tiny.rows(out) == rows
    for node in (1, 2, 3):
        file = f"path/node-{node}.safetensors"
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
        assert (out / file).stat().st_size < (ring8 / file).stat().st_size


def test_a_target_is_blended_into_the_next_also_by_a_run_that_was_killed_meanwhile(
    ring8: Path, tiny: Any, tmp_path: Path, killed: Callable[..., None]
) -> None:
    settings = [*PLAIN, "backtracking.blend=3"]
    whole = tiny.run("ring8", tmp_path / "whole", *settings)
    rows, plain = tiny.rows(tmp_path / "whole"), tiny.rows(ring8)
    assert [row["node"] for row in rows] == [row["node"] for row in plain]
    assert rows[: 8 + 4] == plain[: 8 + 4], "until the first switch it is the plain run"
    assert rows[8 + 4]["field_norm"] != plain[8 + 4]["field_norm"]
    out = tmp_path / "killed"
    killed(out, [("backtracking", 6), ("backtracking", 10)], *settings)
    tiny.run("ring8", out, *settings)
    assert tiny.summary(out)["digest"] == whole.summary["digest"] != tiny.summary(ring8)["digest"]
    assert tiny.rows(out) == rows


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["path={trial: 12}"], "path.trial: 12: has to end before backtracking.steps, 12"),
        (["path=auto", "recording.steps=0", "recording.at=null"], "recording.steps is 0"),
        (["backtracking.blend=5"], "backtracking.blend: 5 steps into node 1, which is the target for 4: lower blend"),
        (
            ["path={trial: 2, switch: plateau}", "backtracking.steps_per_node=[4, 4]"],
            "give backtracking.steps_per_node as one number",
        ),
    ],
)
def test_what_cant_be_is_said(settings: list[str], complaint: str, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        tiny.run("ring8", tmp_path / "run", *settings)


def test_the_sliced_distance_of_a_shift_is_known() -> None:
    """W₂ along u of a shift by d is |d·u|: its mean square over directions is |d|² / dimensions."""
    x = torch.randn(64, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    shift = torch.full((2, 3, 4), 0.5)
    expected = float(shift.norm()) / 24**0.5
    assert sliced_distance(x, x + shift, seed=0) == pytest.approx(expected, rel=0.15)
    assert sliced_distance(x, x, seed=0) == 0


@pytest.mark.long
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("settings", [PLATEAU, [DOES_NOT, QUICK]], ids=["undone", "kept"])
def test_actors_decide_what_one_process_decides(tiny: Any, ray_cluster: str, tmp_path: Path, settings: list[str]) -> None:
    here = tiny.run("ring8", tmp_path / "here", *PLAIN, *settings)
    there = tiny.run("ring8", tmp_path / "there", *PLAIN, *settings, f"cluster.address={ray_cluster}", in_process=False)
    assert tiny.rows(tmp_path / "there") == tiny.rows(tmp_path / "here")
    assert there.summary["trial"] == here.summary["trial"]
    assert (there.summary["digest"], there.summary["switches"]) == (here.summary["digest"], here.summary["switches"])
