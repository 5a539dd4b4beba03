"""Looks at the samples while a run trains: they are asked for in passing, and what they show is warned of and judged at the end."""

from dataclasses import asdict, replace
from typing import Any

from disback_ray.actors.company import Company
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.cast import Later, Step
from disback_ray.auto_path import kept_stage
from disback_ray.evaluation.alarms import Alarm, alarms
from disback_ray.evaluation.verdict import verdict
from disback_ray.following import Follower
from disback_ray.production import Production
from disback_ray.rehearsal.samples import Samples


class Looks:
    """What has been seen is in the metrics; what was warned of is in the summary."""

    def __init__(self, production: Production, company: Company, follower: Follower, samples: Samples) -> None:
        self.production, self.company, self.follower, self.samples = production, company, follower, samples
        self.evaluator = company.evaluator

    def bounds(self) -> Later:
        """What the teacher's score and real data come to, or where there is none, the teacher's own samples."""
        drawn = self.evaluator.real() if self.samples.measured else self.samples.of_teacher()
        probe = self.samples.probe(drawn)
        return self.evaluator.bounds(drawn, probe, *self.samples.scores(probe, self.company.teacher))

    def left_out(self, done: int) -> bool:
        """Whether the look that is due after so many steps is: another one would hold a step up, since the evaluator is so far behind."""
        if not (self.production.leaves_looks_out and self.follower.behind):
            return False
        self.production.watch.say(
            f"step {done:,}: not looked at: the evaluator is still at earlier looks, and no step waits for it; "
            "raise evaluation.every, or lower evaluation.samples"
        )
        return True

    def look(self, step: Step, *, node_ends: bool = False) -> Later:
        """Asks for what says whether the run converges; no step waits for it. Returns the samples that are looked at."""
        drawn = self.samples.of_generator()
        figures = self.samples.figures(drawn)
        probe = self.samples.probe(drawn)
        scores = self.samples.scores(probe, self.company.teacher, self.company.fake_score)
        asked = [self.evaluator.look(drawn, probe, *scores)] + ([] if figures is None else [figures])
        at = replace(step, results=())  # which would be held until the look is there
        self.follower.ask(asked, lambda found: self._looked(at, *found, node_ends=node_ends))
        return drawn

    def _looked(self, step: Step, looked: dict[str, float], figures: dict[str, float] | None = None, *, node_ends: bool) -> None:
        done = step.step + 1
        self.production.metrics.amend(step.stage, done, looked | (figures or {}))
        now = self.follower.last or step
        self.production.watch.step(max(done, now.step + 1), node=now.node, numbers=figures or {})
        if node_ends and figures is not None:
            self.production.summary.metrics.setdefault("nodes", {})[str(step.node)] = figures
        self._warn()

    def _warn(self) -> None:
        """Says each alarm once, when its rule first holds; an interrupted run that goes on finds the same ones."""
        summary = self.production.summary
        known = {alarm["kind"] for alarm in summary.alarms}
        bounds, start = summary.bounds, summary.metrics.get("untrained")
        for alarm in alarms(self._rows(), start=start, lower_bound=bounds.get("mismatch"), real_spread=bounds.get("spread")):
            if alarm.kind not in known:
                summary.alarms.append(asdict(alarm))
                self.production.watch.say(f"step {alarm.step:,}: {alarm.text}")

    def verdict(self) -> str:
        """What all of them say in the end, in words."""
        summary = self.production.summary
        raised, bounds = [Alarm(**alarm) for alarm in summary.alarms], summary.bounds
        return verdict(
            self._rows(), summary.metrics, raised,
            real_spread=bounds.get("spread"), lower_bound=bounds.get("mismatch"), lost=self._lost(),
        )  # fmt: skip

    def _rows(self) -> list[dict[str, Any]]:
        rows = self.production.metrics.rows
        return [row for row in rows if row["stage"] == backtracking.STAGE and row.get("spread") is not None]

    def _lost(self) -> int:
        """Steps of Algorithm 2 without a row: metrics.parquet was gone or damaged when the run went on."""
        stages = {backtracking.STAGE, kept_stage(self.production.summary.trial)}
        there = {row["step"] for row in self.production.metrics.rows if row["stage"] in stages}
        return self.production.recipe.backtracking.steps - len(there)
