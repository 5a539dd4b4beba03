"""A disk that fills up in the midst of a run: one line; with room again, the same command goes on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.runs import LONGEST, Outcome, Stage, begun, last_line, until_checkpoint

DISK_MB = 16
BLOCK = 4096


def disk(stage: Stage) -> Iterator[Outcome]:
    """Needs root, to make a small disk. Somebody else's file takes what is left of it once there is a checkpoint."""
    found, place = Outcome("a disk that fills up"), stage.folder / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        found.skipped = "only root can make a small disk"
        yield found
        return
    try:
        words, folder, log = stage.words(folder=place / "run"), place / "run", stage.folder / "disk.log"
        with begun(words, log) as process:
            until_checkpoint(process, folder)
            fill(place / "other")
            found.injected += 1
            process.wait(timeout=LONGEST)
        line = last_line(log.read_text())
        found.said.append(line)
        found.expect(process.returncode == 2 and "No space left" in line, f"it ended with {process.returncode}: {line}")
        (place / "other").unlink()
        ended = stage.command(words)
        found.expect(ended.returncode == 0, f"with room again: {last_line(ended.stderr)}")
        stage.judge(found, folder=folder)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    yield found


def fill(file: Path) -> None:
    """Takes every block that the disk has left."""
    with file.open("wb", buffering=0) as sink:
        try:
            while True:
                sink.write(bytes(BLOCK))
        except OSError:
            return
