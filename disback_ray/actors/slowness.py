"""Which role has become slow: from how long its calls take, checkpoint by checkpoint. Knows no Ray."""

import statistics
from collections.abc import Iterable

TIMES, SECONDS, CALLS = 4.0, 0.25, 5
"""So many times what it took, and so much longer, in so many calls at least: less is chance."""


class Slowness:
    """The usual time of each role's methods: the shortest median so far."""

    def __init__(self) -> None:
        self.usual: dict[tuple[str, str], float] = {}
        self.slow: set[tuple[str, str]] = set()

    def note(self, taken: Iterable[tuple[str, str, float]]) -> list[str]:
        """Takes (role, method, seconds) of the calls since the last time; says, once each, what has become slow."""
        seconds: dict[tuple[str, str], list[float]] = {}
        for role, method, each in taken:
            seconds.setdefault((role, method), []).append(each)
        lines = []
        for key, times in seconds.items():
            if len(times) < CALLS:
                continue
            now = statistics.median(times)
            usual = self.usual[key] = min(now, self.usual.get(key, now))
            is_slow = now > TIMES * usual and now > usual + SECONDS
            if is_slow and key not in self.slow:
                lines.append(f"{key[0]} is slow: {key[1]} takes {now:.2g} s, {now / usual:.0f} times what it took before")
            self.slow = self.slow | {key} if is_slow else self.slow - {key}
        return lines
