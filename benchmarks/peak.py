"""A process's peak memory, its own alone."""

import re
from pathlib import Path


def peak_mib() -> float:
    """MiB, of the peak resident set since this program began. Linux.

    getrusage's ru_maxrss would not do: a program that a large process starts begins with that one's.
    """
    return _status("VmHWM")


def resident_mib() -> float:
    """MiB, of the resident set at the moment. Linux."""
    return _status("VmRSS")


def _status(key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii", "replace"), re.MULTILINE)
    assert found, f"no {key} in /proc/self/status"
    return int(found[1]) / 1024
