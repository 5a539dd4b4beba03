"""How far generated digits are from the real ones, and whether they show the class that was asked for."""

import numpy as np
import torch

from disback_ray.algorithms.records import Drawn
from disback_ray.data.digits import load_digits
from disback_ray.evaluation.digit_judge import DigitJudge
from disback_ray.evaluation.frechet import frechet_between_halves, frechet_distance
from disback_ray.pictures import image_grid

HALVINGS = 10


class DigitMeasures:
    """Fréchet distance over the judge's features against all real images, and the judge's accuracy on the asked-for class."""

    def __init__(self, judge: DigitJudge, *, conditional: bool, samples: int | None, seed: int) -> None:
        """samples: how many to measure, None for as many as there are real images (with those images' classes)."""
        digits = load_digits()
        self.judge = judge
        self.seed = seed
        self.real = judge.features(digits.images)
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
        chosen = torch.arange(len(digits)) if samples is None else order.repeat(samples // len(order) + 1)[:samples]
        self.labels = digits.labels[chosen] if conditional else None
        self.images = digits.images[chosen]
        self.count = len(chosen)

    def wanted(self) -> Drawn:
        """What to draw for a measurement: the shape, and the real images' classes."""
        return Drawn(torch.empty(self.count, 1, 8, 8), self.labels)

    def wanted_pictures(self, count: int) -> Drawn:
        """What to draw for a picture: the classes in turn, so that each column shows one digit."""
        return Drawn(torch.empty(count, 1, 8, 8), None if self.labels is None else torch.arange(count) % 10)

    def real_data(self) -> Drawn:
        """The real images, in the order of their classes' drawing."""
        return Drawn(self.images, self.labels)

    def measure(self, drawn: Drawn) -> dict[str, float]:
        """frechet: lower is closer; accuracy: 0 … 1. drawn.x: [N, 1, 8, 8]. Raises ConfigError, NonFiniteError."""
        distance = frechet_distance(self.judge.features(drawn.x), self.real)
        if drawn.condition is None:
            return {"frechet": distance}
        return {"frechet": distance, "accuracy": self.judge.accuracy(drawn.x, drawn.condition)}

    def real_halves(self) -> dict[str, float]:
        """The distance between two random halves of the real images: what chance alone makes. And the mean and least of ten splits."""
        splits = [frechet_between_halves(self.real, seed=self.seed + split) for split in range(HALVINGS)]
        return {"frechet": splits[0], "frechet_mean": float(np.mean(splits)), "frechet_least": min(splits)}

    def picture(self, drawn: Drawn) -> bytes:
        """A grid of ten columns as PNG."""
        return image_grid(drawn.x.cpu(), columns=10)
