"""Which node of the path is the target from when on: by the recipe's steps, or by what is seen of the present one."""

from disback_ray.actors.company import Company
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.cast import Later, Step
from disback_ray.algorithms.path import Switch, plateau_switches, target_at
from disback_ray.auto_path import kept_stage
from disback_ray.following import Follower
from disback_ray.production import Production
from disback_ray.rehearsal.samples import Samples
from disback_ray.run_folder import Checkpoint

WATCHED, LAG = 5, 2
"""With `path.switch: plateau`: steps between two looks at the present node, and from a look to the switch that it decides."""


class Targets:
    """plan: the switches so far; it grows in place while the steps are played, where the nodes are left by a rule.

    gaps: after so many steps, how far s_φ was from the target of then. watched: the last look, and what it will give.
    """

    def __init__(self, production: Production, company: Company, follower: Follower, samples: Samples) -> None:
        self.production, self.company, self.follower, self.samples = production, company, follower, samples
        self.recipe = production.recipe
        self.by_plateau = self.recipe.path != "fixed" and self.recipe.path.switch == "plateau"
        self.plan: list[Switch] = []
        self.gaps: dict[int, float] = {}
        self.watched: tuple[int, Later] | None = None

    def go_on_from(self, found: Checkpoint | None) -> None:
        """What was seen before a checkpoint; nothing, where there is none."""
        self.gaps = dict(found.gaps) if found else {}

    def set_plan(self) -> None:
        """From what has been seen so far."""
        back, summary = self.recipe.backtracking, self.production.summary
        if kept_stage(summary.trial):
            self.plan[:] = [Switch(0, 0)]
        elif self.by_plateau:
            seen, most = sorted(self.gaps.items()), back.steps_per_node
            assert isinstance(most, int)
            self.plan[:] = plateau_switches(seen, nodes=len(self.recipe.marks), most=most, lag=LAG, blend=back.blend)
        else:
            self.plan[:] = self.recipe.switches
        summary.switches = [{"step": switch.step, "node": switch.node} for switch in self.plan]

    def farthest_needed(self, found: Checkpoint | None) -> int:
        """The most degraded node that Algorithm 2 needs from its checkpoint on."""
        if found is None:
            return len(self.recipe.marks)
        self.go_on_from(found)
        self.set_plan()
        return target_at(max(0, found.step - self.recipe.backtracking.blend), self.plan)

    def watch(self, step: Step) -> None:
        """Looks at how far s_φ is from the present node, where that decides; what was seen LAG steps ago may end it."""
        if not self.by_plateau:
            return
        done = step.step + 1
        if self.watched is not None and done == self.watched[0] + LAG:
            looked, later = self.watched
            self._saw(looked, self.company.wait(later))
            self.watched = None
            self.set_plan()
        if step.node and done % WATCHED == 0:
            evaluator = self.company.evaluator
            probe = self.samples.probe(self.samples.of_generator())
            gap = evaluator.gap(probe, *self.samples.scores(probe, self.company.cast.path_node, self.company.fake_score))
            self.watched = (done, gap)
            self.follower.ask(gap, lambda found: self._saw(done, found))

    def _saw(self, done: int, found: dict[str, float]) -> None:
        self.gaps[done] = found["target_gap"]
        self.production.metrics.amend(backtracking.STAGE, done, found)
