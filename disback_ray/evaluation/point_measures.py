"""How far generated points are from a known mixture, and how many of its modes they reach."""

import torch
from torch import Tensor

from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Drawn
from disback_ray.data.sources import PointsData
from disback_ray.evaluation.points import energy_distance, mean_apart, modes_covered, sliced_wasserstein
from disback_ray.pictures import snapshots

SAMPLES = 4096
GRID = 21


class PointMeasures:
    """Sliced Wasserstein and energy distance to fresh draws of the mixture, and the modes covered."""

    def __init__(self, data: PointsData, *, samples: int | None, seed: int) -> None:
        self.data = data
        self.seed = seed
        self.count = samples or SAMPLES
        self.real = data.draw(Batch(seed, "evaluation", 0, 0, self.count)).x
        self.apart = mean_apart(self.real)

    def wanted(self) -> Drawn:
        """What to draw for a measurement."""
        return Drawn(torch.empty(self.count, 2), None)

    def wanted_pictures(self, count: int) -> Drawn:
        """What to draw for a picture: points are shown in thousands."""
        return Drawn(torch.empty(max(count, 2000), 2), None)

    def real_data(self) -> Drawn:
        """The draws that all is measured against."""
        return Drawn(self.real, None)

    def measure(self, drawn: Drawn) -> dict[str, float]:
        """sliced_wasserstein, energy_distance: in the points' units, lower is closer; modes: how many are covered; in_modes: 0 … 1.

        A mode is covered by a quarter of the points it is due: in_modes says what share of all points lies in any.
        """
        x = drawn.x.cpu()
        coverage = modes_covered(x, self.data.centres, self.data.std)
        return {
            "sliced_wasserstein": sliced_wasserstein(x, self.real, seed=self.seed),
            "energy_distance": energy_distance(x, self.real, apart=self.apart),
            "modes": float(coverage.covered),
            "in_modes": 1.0 - coverage.strays,
        }

    def real_halves(self) -> dict[str, float]:
        """The distances between two draws of the mixture: what chance alone makes."""
        return self.measure(self.data.draw(Batch(self.seed, "evaluation", 1, 0, self.count)))

    def picture(self, drawn: Drawn) -> bytes:
        """The points over the data's, as PNG."""
        return snapshots([("", drawn.x.cpu())], self.real)

    def grid(self) -> Tensor:
        """Where the score fields are shown: an even grid a little wider than the data, [M, 2]."""
        reach = 1.3 * float(self.data.centres.abs().max())
        line = torch.linspace(-reach, reach, GRID)
        return torch.cartesian_prod(line, line)
