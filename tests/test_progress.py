"""What is shown while a run goes on, with a terminal and without."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from disback_ray import progress
from disback_ray.pace import Pace
from disback_ray.pace import clock as shown_as
from disback_ray.progress import OnConsole, what_fits

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


# -- how fast, and how long still --


def test_rate_and_time_left_wait_for_steps_and_seconds(clock: list[float]) -> None:
    pace = Pace(steps=100, start=10)
    clock[0] += 60  # workers start
    for step in range(11, 14):
        pace.step(step)
        clock[0] += 1
        assert pace.rate is pace.left is None, "two steps in two seconds say nothing yet"
    pace.step(14)
    assert (pace.rate, pace.left) == (1.0, 86.0)
    clock[0] += 40  # nothing new: neither changes
    assert (pace.rate, pace.left, pace.passed) == (1.0, 86.0, 103.0)
    quick = Pace(steps=100, start=0)
    for step in range(1, 50):
        clock[0] += 0.01
        quick.step(step)
    assert quick.left is None, "49 steps, but no second yet"


def test_what_can_t_be_counted_has_no_time_left(clock: list[float]) -> None:
    pace = Pace(steps=None, start=0)
    clock[0] += 75
    assert what_fits(pace, {}, 80) == ["1:15"]


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")])
def test_a_clock(seconds: float, shown: str) -> None:
    assert shown_as(seconds) == shown


# -- without a terminal --


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
    assert lines[1:] == [
        f"recording, node 2: {done}/50  1.0/s  0:{50 - done:02d} left  fake loss 0.25  field norm 1.5" for done in (16, 32, 48)
    ]


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
        watch.step(0, node=None, numbers={"loss": float("nan")})
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "backtracking, node 1: 1/5  frechet 3  fake loss 0.25  field norm 1.5"
    assert lines[4] == "more: 0/5  loss nan"


def test_what_can_t_be_counted_is_said_once_it_lasts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with OnConsole() as watch:
        for name in ("starting Ray", "placing the cast"):
            watch.stage(name)
    assert capsys.readouterr().err == "", "what fails at once says why, and nothing else"
    monkeypatch.setattr(progress, "HOLD_SECONDS", 0.01)
    with OnConsole() as watch:
        for name in ("starting Ray", "placing the cast", "placing the cast", "measuring [it]"):
            watch.stage(name)
            watch.held.join()
        watch.stage("[recording]", steps=5)
    assert capsys.readouterr().err == "starting Ray …\nplacing the cast …\nmeasuring [it] …\n[recording] …\n"


def test_what_is_said_without_a_terminal_is_one_line_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with OnConsole() as watch:
        watch.say(f"kept in /tmp/[bold]{'x' * 200}")
        watch.interject("stopping")  # the stream of this test has no descriptor, as a notebook's
    assert capsys.readouterr().err == f"kept in /tmp/[bold]{'x' * 200}\nstopping\n"


# -- on a terminal --


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("columns", [180, 120, 100, 80, 70, 60, 40])
def test_on_a_terminal_one_line_with_what_matters_most(
    columns: int, clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with OnConsole() as watch:
        watch.stage("backtracking", steps=1000)
        for done in range(1, 251):
            clock[0] += 0.1
            watch.step(done, node=3, numbers=NUMBERS | {"frechet": 4.0})
        capsys.readouterr()
        watch.bar.refresh()
        shown = plain(capsys.readouterr().err)
    line = shown.strip("\r\n").rstrip()
    assert "\n" not in line
    assert len(line) <= columns
    assert line.startswith("backtracking, node 3 ━")
    assert "1:15 left" in line, "in an earlier frame the time left was another"
    assert ("10.0/s" in line) == (columns >= 50)
    assert ("250/1000" in line) == (columns >= 60)
    assert ("fake loss 0.25" in line) == (columns >= 80)
    assert ("field norm 1.5" in line) == (columns >= 100)
    assert ("frechet 4" in line) == (columns >= 100)


def test_on_a_pseudo_terminal_each_frame_is_one_line() -> None:
    columns = 70
    script = (
        "import time; from disback_ray import pace; from disback_ray.progress import OnConsole; pace.ENOUGH_SECONDS = 0.1\n"
        "with OnConsole() as watch:\n"
        "    watch.stage('placing the cast'); time.sleep(0.15); watch.stage('training the teacher', steps=2400)\n"
        "    for step in range(12):\n"
        "        time.sleep(0.05); watch.step(100 * step, node=None, numbers={'loss': 0.5})\n"
        "    watch.interject('stopping'); time.sleep(0.15)\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    running = subprocess.Popen([sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # Linux's end of a pseudo-terminal
        pass
    os.close(ours)
    assert running.wait() == 0
    text, _, after = shown.decode().partition("\x1b[?25h")
    assert "\x1b[1A" not in text, "a frame of two lines"
    assert after.endswith("\x1b[1A\x1b[2K"), "the bar goes"
    frames = [plain(frame) for frame in re.split("\r", text)]
    assert max(len(frame.strip("\n")) for frame in frames) <= columns
    assert any(frame.startswith("placing the cast ") for frame in frames)
    last = next(frame for frame in reversed(frames) if frame.startswith("training the teacher "))
    assert re.search(r" 1100/2400  \d+\.\d/s  0:0\d left", last), last
    assert text.count("stopping") == 1, "it stays, and the bar goes on below"
    stopping = next(index for index, frame in enumerate(frames) if "stopping" in frame)
    assert frames[stopping + 1] == "\n"
    assert any(frame.startswith("training the teacher ") for frame in frames[stopping + 2 :])


@pytest.mark.usefixtures("terminal")
def test_the_bar_goes_and_what_was_said_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with OnConsole() as watch:
        watch.stage("recording", steps=10)
        watch.say("stopped; what is done is kept in /tmp/[x]")
        watch.stage("backtracking", steps=10)
        assert watch.bar.live.is_started
    assert not watch.bar.live.is_started, "the terminal is as it was"
    assert "stopped; what is done is kept in /tmp/[x]\n" in plain(capsys.readouterr().err).replace("\r", "")
