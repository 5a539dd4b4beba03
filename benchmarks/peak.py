"""A process's peak memory, its own alone."""

import re
from pathlib import Path


def peak_mib() -> float:
    """MiB, of the peak resident set since this program began. Linux.

    getrusage's ru_maxrss would not do: a program that a large process starts begins with that one's.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii", "replace"), re.MULTILINE)
    assert found, "no VmHWM in /proc/self/status"
    return int(found[1]) / 1024
