"""What is shown while a run goes on, with a terminal and without."""

import re
import time
from collections.abc import Iterator

import pytest

from disback_ray import progress
from disback_ray.progress import OnConsole

NUMBERS = {"fake_loss": 0.25, "field_norm": 1.5, "fake_grad_norm": 77.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time in seconds, as a list of one, to be set."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now
    monkeypatch.undo()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "180"}.items():
        monkeypatch.setenv(name, value)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_without_a_terminal_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with OnConsole() as watch:
        watch.stage("recording", steps=50, start=10)
        clock[0] += 10  # before the first step: no part of the rate
        for second in range(1, 41):
            clock[0] += 1
            watch.step(10 + second, node=2, numbers=NUMBERS)
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == "recording …"
    assert len(lines) == 4, "after 16, 32 and 48 of 50 seconds"
    assert [re.sub(r" {2,}", "  ", line) for line in lines[1:]] == [
        f"recording, node 2: {done}/50  1.0/s  {50 - done} s left  fake loss 0.25  field norm 1.5" for done in (16, 32, 48)
    ]


def test_a_stage_of_no_steps_a_second_and_no_node(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    with OnConsole() as watch:
        watch.stage("training the teacher", steps=5)
        watch.step(0, node=None, numbers={"loss": float("nan")})
        watch.step(1, node=None, numbers={})
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].split() == ["training", "the", "teacher:", "0/5", "loss", "nan"]
    assert lines[2].split() == ["training", "the", "teacher:", "1/5", "loss", "nan"], (
        "before any time has passed there is no rate"
    )


def test_numbers_stay_until_the_next_stage(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with OnConsole() as watch:
        watch.stage("backtracking", steps=5)
        for numbers in ({"frechet": 3.0}, NUMBERS):
            clock[0] += 1
            watch.step(1, node=1, numbers=numbers)
        watch.stage("more", steps=5)
        clock[0] += 1
        watch.step(1, node=0, numbers={})
    lines = capsys.readouterr().err.splitlines()
    assert lines[2].endswith("frechet 3  fake loss 0.25  field norm 1.5")
    assert "frechet" not in lines[4]


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_a_bar_with_stage_node_rate_losses_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with OnConsole() as watch:
        watch.stage("backtracking", steps=1000)
        time.sleep(0.05)
        watch.step(10, node=3, numbers=NUMBERS)
        watch.bar.refresh()
        time.sleep(0.05)
        watch.step(250, node=3, numbers={"fake_loss": 0.125, "frechet": 4.0})
        watch.bar.refresh()
    shown = plain(capsys.readouterr().err)
    assert "backtracking, node 3" in shown
    assert "250/1000" in shown
    assert re.search(r"\d+\.\d/s", shown)
    assert "fake loss 0.125  field norm 1.5  frechet 4" in shown
    assert re.search(r"0:00:0\d", shown), "the time left"
    assert "…" not in shown


@pytest.mark.usefixtures("terminal")
def test_the_bar_goes_and_what_was_said_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with OnConsole() as watch:
        watch.stage("recording", steps=10)
        watch.say("stopped; what is done is kept in /tmp/[x]")
        watch.stage("backtracking", steps=10)
        assert watch.bar.live.is_started
    assert not watch.bar.live.is_started, "the terminal is as it was"
    assert "stopped; what is done is kept in /tmp/[x]\n" in plain(capsys.readouterr().err).replace("\r", "")


def test_what_is_said_without_a_terminal_is_one_line_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with OnConsole() as watch:
        watch.say(f"kept in /tmp/[bold]{'x' * 200}")
    assert capsys.readouterr().err == f"kept in /tmp/[bold]{'x' * 200}\n"
