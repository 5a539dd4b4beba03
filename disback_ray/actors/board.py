"""What the driver and Ray Train's workers tell each other. An actor of its own, with little to import, so that it is there at once."""

from disback_ray.errors import DisbackError


class Board:
    """What the first worker last reported; the driver looks at it, and can ask for a stop there."""

    def __init__(self) -> None:
        self.latest: tuple[int, float] = (0, float("nan"))
        self.stopped = False
        self.error: DisbackError | None = None

    def report(self, step: int, loss: float) -> bool:
        self.latest = (step, loss)
        return self.stopped

    def fail(self, error: DisbackError) -> None:
        self.error = error

    def look(self) -> tuple[tuple[int, float], DisbackError | None]:
        return self.latest, self.error

    def stop(self) -> None:
        self.stopped = True

    def is_over(self) -> bool:
        return self.stopped or self.error is not None
