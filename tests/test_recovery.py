"""A run that was stopped, anywhere and anyhow, ends like one that never was: the same weights, the same rows, the same figures."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from disback_ray import pictures, running, theatre
from disback_ray.actors import parts
from disback_ray.actors.fake_score import FakeScore
from disback_ray.algorithms.records import Sample
from disback_ray.errors import NonFiniteError
from disback_ray.interruption import LATER, NOW
from disback_ray.nonfinite import NONFINITE, skip
from disback_ray.progress import OnConsole
from disback_ray.rehearsal import checkpoints
from disback_ray.rehearsal.checkpoints import Checkpoints
from disback_ray.run_folder import Summary, newest_checkpoint
from disback_ray.storage import Folder

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not drawn: that takes more time than all else here."""
    monkeypatch.setattr(pictures, "_png", lambda figure: b"\x89PNG")


# -- Ctrl-C --


@dataclass
class Interrupting(OnConsole):
    """Sends this process signals once a step of a stage is done, 0 being its beginning. starts: where each stage began."""

    stage_name: str
    done: int
    signals: list[int]
    starts: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        OnConsole.__init__(self)

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None:
        super().stage(name, steps=steps, start=start)
        self.starts[name] = start
        self._interrupt(name, 0)

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        super().step(done, node=node, numbers=numbers)
        self.seen.setdefault(self.name, done)
        self._interrupt(self.name, done)

    def _interrupt(self, name: str, done: int) -> None:
        if name == self.stage_name and done >= self.done:
            while self.signals:
                os.kill(os.getpid(), self.signals.pop())


Play = Callable[..., tuple[Any, Interrupting]]


@pytest.fixture
def play(command: Command, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Runs the command, with signals at a moment; the same command whenever it is called."""
    words = tiny.arguments("ring8", tmp_path / "run", "--set", f"cluster.storage={tmp_path}/storage")

    def once(stage: str = "", done: int = 0, *signals: int, more: Sequence[str] = ("--in-process",)) -> tuple[Any, Interrupting]:
        watch = Interrupting(stage, done, list(signals))
        monkeypatch.setattr(running, "OnConsole", lambda: watch)
        return command(*words, *more), watch

    return once


@pytest.fixture
def _handlers() -> Iterator[None]:
    """The signals' handlers are put back, whatever happens."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("_handlers")
def test_stopped_in_every_stage_it_goes_on_each_time(play: Play, ring8: Path, tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    went_on: list[Interrupting] = []
    for stage, done, *signals in [
        ("training the teacher", 120, signal.SIGINT),
        ("measuring the teacher", 0, signal.SIGINT),
        ("recording", 3, signal.SIGTERM),
        ("recording", 0, signal.SIGINT),
        ("backtracking", 7, signal.SIGINT),
        ("backtracking", 11, signal.SIGINT, signal.SIGINT),  # the second one doesn't wait
        ("measuring the generator", 0, signal.SIGINT),
    ]:
        said, watch = play(stage, done, *signals)
        went_on.append(watch)
        assert not watch.signals, f"{stage} was not reached"
        assert said.status == 130
        assert said.out == ""
        *_, heard, last = said.err.splitlines()
        assert last == f"stopped; what is done is kept in {out}: run the same command again to go on"
        assert heard == (LATER if done and len(signals) == 1 else NOW), "said at once"
        assert "Traceback" not in said.err
        assert tiny.summary(out)["status"] == "interrupted"
        assert tiny.summary(out)["error"] is None
        assert "interrupted" in (out / "report.html").read_text()
        assert not (out / "generator").exists()
    said, watch = play()
    assert said.status == 0
    tiny.assert_equal(out, ring8, pictures=False)
    # It went on from where it was, not from the beginning:
    assert went_on[1].seen["training the teacher"] == 121
    assert "training the teacher" not in went_on[2].starts
    assert "measuring the teacher" not in went_on[3].starts
    assert went_on[3].starts["recording"] in (3, 4)
    assert "recording" not in went_on[5].starts
    assert went_on[5].starts["backtracking"] in (7, 8)
    assert went_on[6].starts["backtracking"] == 10, "the last checkpoint before the second Ctrl-C"
    assert watch.starts == {"building the cast": 0, "backtracking": 12, "measuring the generator": 0}


def test_once_stopped_a_run_tells_of_what_is_there(play: Play, tiny: Any, tmp_path: Path) -> None:
    play("backtracking", 7, signal.SIGINT)
    rows = tiny.rows(tmp_path / "run")
    done = [(row["stage"], row["step"]) for row in rows]
    assert done[:8] == [("recording", step) for step in range(1, 9)]
    assert done[8:] in ([("backtracking", step) for step in range(1, last + 1)] for last in (7, 8))
    found = tiny.summary(tmp_path / "run")
    assert set(found["metrics"]) == {"teacher", "untrained", "real_halves", "nodes"}
    assert set(found["stages"]) == {"teacher", "casting", "measuring", "recording", "backtracking"}
    assert found["digest"] == ""


# -- a kill, which nothing can be done about: what is there must do, after any write --


KILLS = ("manifest.json", "fake_score.safetensors", "node-2.json", "node-3.json", "model.safetensors", "figure-8.png")
"""What others rely on, and what the other half of something follows."""


def test_killed_after_a_write_it_ends_the_same(tiny: Any, ring8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, left, finished = tmp_path / "run", {}, []
    write = Folder.write

    def snapshot(self: Folder, name: str, data: bytes) -> None:
        if self.uri == str(out) and name == "summary.json" and b'"complete"' in data:
            finished.append((out / "report.html").exists())
        write(self, name, data)
        if self.uri.startswith(str(out)) and name in KILLS:
            left[f"{len(left)} {self.uri}/{name}"] = shutil.copytree(out, tmp_path / f"killed-{len(left)}")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", snapshot)
        tiny.run("ring8", out)
    tiny.assert_equal(out, ring8, pictures=False)
    assert len(left) == 12
    assert finished == [True], "a complete run isn't gone on with: its report has to be there before"
    for moment, folder in left.items():
        assert tiny.summary(folder)["status"] == "running"
        (folder / "metrics.parquet.partial").write_bytes(b"half of")
        tiny.run("ring8", folder)
        try:
            tiny.assert_equal(folder, ring8, pictures=False)
        except AssertionError as error:
            raise AssertionError(f"killed after {moment}") from error


def test_a_damaged_checkpoint_is_passed_over(tiny: Any, ring8: Path, tmp_path: Path, play: Play) -> None:
    out = tmp_path / "run"
    shutil.copytree(ring8, out)
    found = tiny.summary(out) | {"status": "running"}
    (out / "summary.json").write_text(json.dumps(found))
    newest = sorted((out / "checkpoints").glob("backtracking-*"))[-1]
    file = newest / "generator.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1  # one bit
    file.write_bytes(data)
    said, watch = play(more=["--in-process", "--set", f"cluster.storage={tiny.storage}"])
    assert watch.starts["backtracking"] == 10
    refused = [line for line in said.err.splitlines() if "refused" in line]
    assert refused == [
        f"checkpoint {newest.name} is refused: {file} is not what was written: its SHA-256 differs from the manifest's"
    ]
    tiny.assert_equal(out, ring8, pictures=False)


def test_storage_slower_than_the_steps_holds_them_up_before_the_log_grows(
    tiny: Any, ring8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ever written when one looks. A checkpoint is due every two steps, so that four steps' calls are held at most."""
    held: list[int] = []
    kept = {"recording": 0, "backtracking": 0}
    here, keep, save = theatre.in_process, Checkpoints.keep, checkpoints.save_checkpoint

    def slow(*args: Any, **kwargs: Any) -> Any:
        return replace(here(*args, **kwargs), is_ready=lambda later: False, log_steps=2)

    def asked(self: Checkpoints, stage: str, done: int) -> None:
        held.append(done - kept[stage])
        keep(self, stage, done)

    def saved(folder: Folder, stage: str, done: int, *args: Any, **kwargs: Any) -> None:
        kept[stage] = done
        save(folder, stage, done, *args, **kwargs)

    monkeypatch.setattr(theatre, "in_process", slow)
    monkeypatch.setattr(Checkpoints, "keep", asked)
    monkeypatch.setattr(checkpoints, "save_checkpoint", saved)
    tiny.run("ring8", tmp_path / "run", "evaluation.pictures=0", "evaluation.every=100", "checkpoint_every=100")
    assert max(held) == 4, held
    assert tiny.summary(tmp_path / "run")["digest"] == tiny.summary(ring8)["digest"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root can make a small disk")
def test_a_full_disk_is_one_line_and_costs_nothing(tiny: Any, ring8: Path, command: Command, tmp_path: Path) -> None:
    """Once there is room again, the run goes on from the newest whole checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    needed = sum(len(data) // 4096 + 1 for data in (f.read_bytes() for f in ring8.rglob("*.safetensors"))) * 4
    mount = ["mount", "-t", "tmpfs", "-o", f"size={needed * 8 // 10}k", "tmpfs", disk]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        words = tiny.arguments("ring8", disk / "run", "--in-process")
        said = command(*words)
        assert said.status == 2
        last = said.err.splitlines()[-1]
        assert last.startswith(f"disback-ray: can't write {disk}/run/")
        assert "No space left" in last
        assert "make room there" in last
        assert any(newest_checkpoint(Folder.at(disk / "run"), stage) for stage in ("recording", "backtracking"))
        subprocess.run(["mount", "-o", f"remount,size={needed * 8}k", disk], check=True)
        assert command(*words).status == 0
        tiny.assert_equal(disk / "run", ring8, pictures=False)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("damage", ["cut off", "gone"])
@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.parquet"])
def test_what_a_checkpoint_has_too_is_written_again(
    tiny: Any, command: Command, ring8: Path, tmp_path: Path, name: str, damage: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(ring8, out)
    shutil.rmtree(out / "checkpoints/backtracking-00000012")
    (out / "summary.json").write_text(json.dumps(tiny.summary(out) | {"status": "running"}))
    whole = (out / name).read_bytes()
    if name == "metrics.parquet":
        (out / "samples/node-2.png").unlink()  # the report does without it
    (out / name).write_bytes(whole[: len(whole) // 2]) if damage == "cut off" else (out / name).unlink()
    said = command(*tiny.arguments("ring8", out, "--in-process"))
    assert said.status == 0
    assert tiny.summary(out)["digest"] == tiny.summary(ring8)["digest"]
    if name != "metrics.parquet":
        tiny.assert_equal(out, ring8, pictures=False)
        assert f"{out}/{name} was {'damaged' if damage == 'cut off' else 'gone'}: it is again as of checkpoint" in said.err
        return
    assert tiny.summary(out)["verdict"] == "Too few looks at the generator are left to tell: 1; the rows of 10 steps are lost."
    if damage == "gone":
        assert f"{out}/{name} is gone: the run goes on without its rows\n" in said.err
    else:
        assert f"{out}/{name} is damaged" in said.err
        assert (out / "metrics.damaged.parquet").read_bytes() == whole[: len(whole) // 2]


def test_a_config_of_another_run_is_known_by_its_checkpoints(tiny: Any, command: Command, ring8: Path, tmp_path: Path) -> None:
    shutil.copytree(ring8, tmp_path / "run")
    (tmp_path / "run/config.yaml").unlink()
    said = command(*tiny.arguments("ring8", tmp_path / "run", "--in-process", "--set", "batch=16"))
    assert said.status == 2
    assert "belongs to another run (batch: 32 there, 16 here)" in said.err


def test_a_damaged_node_is_recorded_again_while_it_is_needed(tiny: Any, command: Command, ring8: Path, tmp_path: Path) -> None:
    """From the newest checkpoint before it, and all that came after it stays."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    more = ("--in-process", "--set", "cluster.checkpoints.keep=9")
    assert command(*tiny.arguments("ring8", whole, *more)).status == 0
    for left, node, harm, start in [
        ("backtracking-00000005", "node-1.safetensors", "flipped", 0),
        ("backtracking-00000005", "node-2.safetensors", "flipped", None),  # which it has left behind
        ("", "node-3.json", "gone", 5),
        ("", "node-3.safetensors", "cut off", 5),
        ("", "node-1.json", "gone with the whole path", 0),
        ("", "node-1.json", "gone with the whole path and the rows", 0),
    ]:
        shutil.copytree(whole, out)
        for checkpoint in (name for name in (out / "checkpoints").glob("backtracking-*") if name.name > left):
            shutil.rmtree(checkpoint)
        (out / "summary.json").write_text(json.dumps(tiny.summary(out) | {"status": "running"}))
        file = out / "path" / node
        data = file.read_bytes()
        file.write_bytes({"flipped": data[:-1] + bytes([data[-1] ^ 1]), "cut off": data[:-20]}.get(harm, b""))
        if harm == "gone":
            file.unlink()
        if harm.startswith("gone with the whole path"):
            shutil.rmtree(out / "path")
        if harm.endswith("and the rows"):
            (out / "metrics.parquet").unlink()
        said = command(*tiny.arguments("ring8", out, *more))
        assert said.status == 0
        told = [line for line in said.err.splitlines() if line.endswith("it is recorded again")]
        assert len(told) == (start is not None)
        assert all(line.startswith(f"{node.partition('.')[0].replace('-', ' ')} of the path is refused: ") for line in told)
        assert all(f"{out}/path/{node}" in line for line in told)
        assert ("recording …" in said.err) == (start is not None)
        assert ("going on from recording step 5" in said.err) == (start == 5)
        assert ("going on from backtracking step 5" in said.err) == bool(left)
        if start is None:
            file.write_bytes(data)
        tiny.assert_equal(out, ring8, pictures=False)
        shutil.rmtree(out)


@pytest.mark.parametrize("name", ["node-1.safetensors", "node-2.json", "node-3.safetensors"])
def test_a_node_that_was_not_recorded_yet_is_not_missed(
    tiny: Any, command: Command, ring8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Ended after that write, of which a node's JSON is the last."""
    words = tiny.arguments("ring8", tmp_path / "run", "--in-process")
    write = Folder.write

    def last(self: Folder, given: str, data: bytes) -> None:
        write(self, given, data)
        if given == name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", last)
        assert command(*words).status == 130
    said = command(*words)
    assert said.status == 0
    assert "recording …" in said.err
    assert "refused" not in said.err
    tiny.assert_equal(tmp_path / "run", ring8, pictures=False)


def test_a_damaged_summary_is_named(tiny: Any, command: Command, ring8: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(ring8, out)
    shutil.rmtree(out / "checkpoints")
    (out / "summary.json").write_text(json.dumps(tiny.summary(out) | {"status": "running"}))
    (out / "summary.json").write_bytes((out / "summary.json").read_bytes()[:-20])
    said = command(*tiny.arguments("ring8", out, "--in-process"))
    complaints = [line for line in said.err.splitlines() if line.startswith("disback-ray: ")]
    assert said.status == 2
    assert len(complaints) == 1
    assert f"{out}/summary.json" in complaints[0]
    assert "Traceback" not in said.err
    assert torch.get_num_threads() == 1


def test_nan_stops_before_the_optimiser_and_leaves_the_keys(tiny: Any, command: Command, tmp_path: Path) -> None:
    """With them the samples can be drawn again."""
    out = tmp_path / "run"
    said = command(*tiny.arguments("ring8", out, "--in-process", "--set", "backtracking.generator.lr=1e30"))
    assert said.status == 2
    kept = json.loads((out / "nonfinite.json").read_text())
    assert said.err.splitlines()[-1] == f"disback-ray: {kept['error']}"
    assert kept["role"] in ("generator", "fake_score", "path_node")
    where = {key: kept[key] for key in ("seed", "stage", "step", "first", "size")}
    assert where == {"seed": 0, "stage": "backtracking", "step": 1, "first": 0, "size": 32}
    rows = [row for row in tiny.rows(out) if row["stage"] == "backtracking"]
    assert all(math.isfinite(row["fake_loss"]) for row in rows)


class Odd(FakeScore):
    """One to which some steps of each stage, counted from 0, give a loss of NaN; the generator may have learnt them by then."""

    def fit(self, sample: Sample, *, update: int = 0) -> dict[str, float]:
        if (sample.batch.stage, sample.batch.step) in {("recording", 5), ("backtracking", 6), ("backtracking", 13)}:
            sample = replace(sample, x0=sample.x0 * math.nan)
        return super().fit(sample, update=update)


class Asked(Odd):
    """Notes what it is asked for."""

    seen: ClassVar[list[tuple[str, str, int]]] = []

    def fit(self, sample: Sample, *, update: int = 0) -> dict[str, float]:
        self.seen.append(("fit", self.stage, sample.batch.step))
        return super().fit(sample, update=update)

    def skip(self, step: int) -> dict[str, float]:
        before = self.digest()
        self.seen.append(("skip", self.stage, step))
        found = super().skip(step)
        assert self.digest() == before
        return found


def test_a_step_with_nan_is_skipped_in_every_role(
    tiny: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that stops, and goes on with --on-nonfinite skip, is the one that skipped from the start."""
    monkeypatch.setitem(parts.CLASSES, "fake_score", Asked)
    Asked.seen.clear()
    said = command(*tiny.arguments("ring8", tmp_path / "run", "--in-process", "--on-nonfinite", "skip"))
    assert said.status == 0
    line = "skipped: the fake score's loss is nan at {} step {}: lower its lr, or set its clip; the keys of its samples are in "
    bad = [("recording", 5), ("backtracking", 6)]
    assert [told for told in said.err.splitlines() if "skipped" in told] == [line.format(*step) + NONFINITE for step in bad]
    kept = tiny.summary(tmp_path / "run")["skipped"]
    assert [(step["stage"], step["step"], step["first"], step["size"]) for step in kept] == [(*step, 0, 32) for step in bad]
    fits = [call for call in Asked.seen if call[0] == "fit"]
    assert [fits.count(("fit", *step)) for step in bad] == [1, 1], "found once, and never learnt again"
    assert [call for call in Asked.seen if call[0] == "skip"] == [("skip", *step) for step in bad]
    rows = {(row["stage"], row["step"]): row for row in tiny.rows(tmp_path / "run")}
    assert len(rows) == 20
    assert rows["backtracking", 12]["spread"] is not None, "the last look was waited for"
    assert {key for key, row in rows.items() if row["fake_loss"] is None} == {(stage, step + 1) for stage, step in bad}

    monkeypatch.setitem(parts.CLASSES, "fake_score", Odd)
    words = tiny.arguments("ring8", tmp_path / "other", "--in-process")
    assert command(*words).status == 2
    assert command(*words, "--on-nonfinite", "skip").status == 0
    tiny.assert_equal(tmp_path / "other", tmp_path / "run", pictures=False)


class Large(FakeScore):
    """One that doesn't fit its device; the plan's dry run takes no memory."""

    def fit(self, sample: Sample, *, update: int = 0) -> dict[str, float]:
        if isinstance(sample.x0, FakeTensor) or sample.x0.is_meta:
            return super().fit(sample, update=update)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_too_little_gpu_memory_is_told_with_the_plan_s_figure(
    tiny: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parts.CLASSES, "fake_score", Large)
    said = command(*tiny.arguments("ring8", tmp_path / "run", "--in-process"))
    last = said.err.splitlines()[-1]
    assert said.status == 2
    assert last.startswith(
        "disback-ray: fake_score ran out of GPU memory in fit: CUDA out of memory. Tried to allocate 2.00 GiB.: "
    )
    assert "raise micro_batches, lower batch" in last
    assert re.search(r"by the plan it needs \S+ GiB at its peak.*`disback-ray plan` says which settings would fit$", last)
    assert tiny.summary(tmp_path / "run")["error"] == last.removeprefix("disback-ray: ")


def test_too_many_skipped_steps_are_no_bad_batch() -> None:
    summary = Summary("ring8", 0)
    nan = [NonFiniteError("NaN", {"stage": "recording", "step": step}) for step in (3, *range(100, 110), 103, 110, 250)]
    assert [skip(summary, "recording", error, keyed="recording") for error in nan[:11]] == [3, *range(100, 110)]
    for error in (nan[11], NonFiniteError("NaN", {"step": "x"}), NonFiniteError("NaN", {"stage": "backtracking", "step": 1})):
        with pytest.raises(NonFiniteError, match=r"^NaN$"):
            skip(summary, "recording", error, keyed="recording")
    with pytest.raises(NonFiniteError, match="10 of the 100 steps before were skipped"):
        skip(summary, "recording", nan[12], keyed="recording")
    assert skip(summary, "recording", nan[13], keyed="recording") == 250, "those of long ago don't count"


# -- over actors --


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Train's own, at every start
@pytest.mark.long
def test_stopped_while_ray_train_trains_the_teacher(
    tiny: Any, play: Play, ray_cluster: str, left_over: Callable[[str], set[str]], tmp_path: Path
) -> None:
    out, kept = tmp_path / "run", tmp_path / "storage" / "teachers"
    teacher = ["--set", "teacher.training.steps=2400"]  # long enough for a stop on the way: it is kept after each 240 steps
    said, watch = play("training the teacher", 240, signal.SIGINT, more=[*teacher, "--set", f"cluster.address={ray_cluster}"])
    assert not watch.signals
    assert (said.status, said.out) == (130, "")
    assert said.err.splitlines()[-1] == f"stopped; what is done is kept in {out}: run the same command again to go on"
    lines = said.err.splitlines()[:-1]
    assert LATER in lines
    tiny.assert_progress([line for line in lines if line != LATER])
    assert tiny.summary(out)["status"] == "interrupted"
    assert {file.name for file in kept.glob("ring-*/*")} == {"unfinished.safetensors"}
    assert not left_over(ray_cluster)

    said, watch = play(more=[*teacher, "--in-process"])
    assert said.status == 0
    assert watch.seen["training the teacher"] < 2400
    assert watch.seen["training the teacher"] > 240
    tiny.run("ring8", tmp_path / "whole", "teacher.training.steps=2400")
    tiny.assert_equal(out, tmp_path / "whole", pictures=False)


@dataclass
class Killing(OnConsole):
    """Kills roles' processes once a step of a stage is done. kills: {(stage, steps done): roles}; told: what was said."""

    out: Path
    kills: dict[tuple[str, int], list[str]]
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        OnConsole.__init__(self)

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        super().step(done, node=node, numbers=numbers)
        roles = json.loads((self.out / "summary.json").read_text())["roles"]
        for role in self.kills.pop((self.name, done), []):
            os.kill(roles[role]["pid"], signal.SIGKILL)

    def say(self, text: str) -> None:
        super().say(text)
        self.told.append(text)


DYING = """
import os, signal, sys
from disback_ray import cli, running
from disback_ray.progress import OnConsole

class Dying(OnConsole):
    def step(self, done, *, node, numbers):
        super().step(done, node=node, numbers=numbers)
        if (self.name, done) == ("backtracking", int(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)

running.OnConsole = Dying
cli.main(sys.argv[2:])
"""
"""A driver that is killed once so many steps are done."""


@pytest.mark.long
def test_over_actors_roles_are_killed_the_run_interrupted_and_the_driver_killed(
    tiny: Any,
    command: Command,
    ring8: Path,
    ray_cluster: str,
    left_over: Callable[[str], set[str]],
    processes: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Roles die in both stages, alone and together, just before a checkpoint and at a switch; one of them too often. Steps are skipped.

    Then, each time, the same command goes on; in the end in one process.
    """
    assert ring8, "its teacher is there"
    out, more = (
        tmp_path / "run",
        ["backtracking.steps=40", "backtracking.blend=3", "recording.store=int8", "cluster.recovery.on_nonfinite=skip"],
    )
    monkeypatch.setitem(parts.CLASSES, "fake_score", Odd)
    words = tiny.arguments(
        "ring8", out, *(word for setting in [*more, f"cluster.address={ray_cluster}"] for word in ("--set", setting))
    )

    killing = Killing(out, {
        ("recording", 3): ["fake_score"], ("backtracking", 2): ["generator", "path_node"],
        ("backtracking", 4): ["fake_score", "evaluator"], ("backtracking", 9): ["teacher", "path_node"],
        ("backtracking", 16): ["fake_score"],
    })  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(running, "OnConsole", lambda: killing)
        said = command(*words, "--set", "cluster.recovery={losses: 2, within: 3600, on_nonfinite: skip}")
    assert not killing.kills, said.err
    assert said.status == 2
    advice = "run the same command again to go on from the last checkpoint"
    assert said.err.splitlines()[-1] == f"disback-ray: fake_score was lost 3 times within 3600 s: its process died; {advice}"
    found = tiny.summary(out)
    assert (found["status"], f"disback-ray: {found['error']}") == ("failed", said.err.splitlines()[-1])
    assert "failed" in (out / "report.html").read_text()
    assert [(step["stage"], step["step"]) for step in found["skipped"]] == [
        ("recording", 5),
        ("backtracking", 6),
        ("backtracking", 13),
    ]
    assert found["losses"] == 7
    assert sorted(role for event in found["recoveries"] for role in event["roles"]) == sorted(
        ["fake_score", "generator", "path_node", "fake_score", "evaluator", "teacher", "path_node"]
    )
    assert all(event["identical"] and event["seconds"] > 0 for event in found["recoveries"])
    lines = [line for line in killing.told if " lost (" in line]
    assert len(lines) == len(found["recoveries"])
    line = r"(\w+ and )*\w+ lost \(its process died\); recovered in [\d.]+ s after \w+ step \d+, \d+ calls made again"
    assert all(re.fullmatch(line, told) for told in lines), lines
    assert not left_over(ray_cluster)

    watch = Interrupting("backtracking", 22, [signal.SIGTERM])  # ray.init takes this one for itself
    with monkeypatch.context() as patched:
        patched.setattr(running, "OnConsole", lambda: watch)
        said = command(*words)
    assert watch.starts["backtracking"] in (10, 15), "a checkpoint that the first run had come to"
    assert not {"training the teacher", "measuring the teacher", "recording"} & watch.starts.keys()
    assert (said.status, said.out) == (130, "")
    assert said.err.splitlines()[-1] == f"stopped; what is done is kept in {out}: run the same command again to go on"
    assert not left_over(ray_cluster)

    driver = subprocess.run([sys.executable, "-c", DYING, "31", *words], capture_output=True, text=True, check=False)
    assert (driver.returncode, driver.stdout) == (-signal.SIGKILL, "")
    tiny.assert_progress(driver.stderr.splitlines())
    assert tiny.summary(out)["status"] == "running"
    assert not left_over(ray_cluster), "they go with their driver"
    assert not processes.left_of({seat["pid"] for seat in tiny.summary(out)["roles"].values()})
    steps = sorted(int(manifest.parent.name.rpartition("-")[2]) for manifest in out.glob("checkpoints/back*/manifest.json"))
    assert 22 <= steps[-1] <= 30

    tiny.run("ring8", out, *more)
    tiny.run("ring8", tmp_path / "whole", *more)
    tiny.assert_equal(out, tmp_path / "whole", pictures=False)
