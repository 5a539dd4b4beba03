"""How busy a role is, among Ray's own metrics."""

import time

from ray.util.metrics import Gauge

METRIC = "disback_ray_role_busy"
EVERY_SECONDS = 5.0


class Busy:
    """A gauge that Ray's agent exports, where there is ray[default]: the share of the last seconds that the role spent in calls."""

    def __init__(self, role: str) -> None:
        self.gauge = Gauge(METRIC, description="Share of the last seconds that a role spent in calls, 0 to 1", tag_keys=("role",))
        self.tags = {"role": role}
        self.since = time.monotonic()
        self.spent = 0.0

    def add(self, seconds: float) -> None:
        """A call took so long."""
        self.spent += seconds
        passed = time.monotonic() - self.since
        if passed >= EVERY_SECONDS:
            self.gauge.set(min(self.spent / passed, 1.0), tags=self.tags)
            self.since, self.spent = time.monotonic(), 0.0
