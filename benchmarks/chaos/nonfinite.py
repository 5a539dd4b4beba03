"""NaN in a step: found before the optimiser's step; the run stops, or goes on without the step."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

from benchmarks.chaos.runs import Outcome, Stage
from disback_ray.actors import parts
from disback_ray.actors.fake_score import FakeScore
from disback_ray.actors.session import attach
from disback_ray.algorithms.records import Sample
from disback_ray.errors import NonFiniteError
from disback_ray.nonfinite import NONFINITE

WHERE = ("backtracking", 24)
SKIP = "cluster.recovery.on_nonfinite=skip"


class Odd(FakeScore):
    """One to which the samples of a single step are NaN."""

    def fit(self, sample: Sample, *, update: int = 0) -> dict[str, float]:
        if (sample.batch.stage, sample.batch.step) == WHERE:
            sample = replace(sample, x0=sample.x0 * math.nan)
        return super().fit(sample, update=update)


def nonfinite(stage: Stage) -> Iterator[Outcome]:
    """Skipped from the start; and stopped, and then begun again to skip it. Both end as the same does in one process."""
    plain = stage.truth
    with patch.dict(parts.CLASSES, fake_score=Odd), attach("local"):
        truth, folder = stage.truth_of(SKIP), stage.new_folder()
        found = Outcome("NaN in a step, skipped", injected=1)
        _expect_skipped(found, stage.play(found, SKIP, truth=truth).get("skipped", []))
        yield found
        found = Outcome("NaN in a step, stopped; begun again to skip it", injected=1)
        try:
            stage.run(folder=folder)
            found.expect(False, "it didn't stop")
        except NonFiniteError as error:
            found.said.append(str(error))
            kept = json.loads((folder / NONFINITE).read_text("utf-8"))
            found.expect((kept["stage"], kept["step"]) == WHERE, f"the keys of another step: {kept}")
        _expect_skipped(found, stage.play(found, SKIP, folder=folder, truth=truth).get("skipped", []))
        found.expect(truth != plain, "the step that was left out changed nothing")
        yield found


def _expect_skipped(found: Outcome, skipped: list[dict[str, object]]) -> None:
    steps = [(each["stage"], each["step"]) for each in skipped]
    found.expect(steps == [WHERE], f"skipped were {steps}")
