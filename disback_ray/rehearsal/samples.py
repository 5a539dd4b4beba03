"""What the generator and the teacher draw to be measured and looked at: from the same noise whenever they are asked."""

from typing import Any

from disback_ray.actors.company import Company
from disback_ray.algorithms.cast import Later
from disback_ray.config import Recipe
from disback_ray.data.prompts import PromptsData
from disback_ray.data.sources import ImagesData, NoData
from disback_ray.evaluation.looks import bands
from disback_ray.production import Production

PROBED = 4
"""So many micro-batches' samples are looked at together: without gradients they take less room than one that is learnt from."""


class Samples:
    """All is asked of the roles, and nothing is waited for.

    measured: by the recipe's own data; judged: against a reference for images, by a copy of the weights.
    """

    def __init__(self, production: Production, company: Company) -> None:
        recipe: Recipe = production.recipe
        self.company, self.evaluator = company, company.evaluator
        self.seed, self.steps = production.seed, recipe.teacher.sampling_steps
        self.measured = not isinstance(recipe.data, NoData | ImagesData | PromptsData)
        self.judged = recipe.evaluation.reference is not None
        self.wanted = self.evaluator.wanted() if self.measured else self.evaluator.wanted_look()
        self.at_once = PROBED * max(1, recipe.batch // recipe.micro_batches)
        self.sigmas = bands(recipe.backtracking.noise)
        self._teacher: Later = None

    def of_generator(self) -> Later:
        return self.company.generator.draw(self.wanted, seed=self.seed)

    def of_teacher(self) -> Later:
        """In many steps; drawn once for all that is compared with them, until they are forgotten."""
        if self._teacher is None:
            self._teacher = self.company.teacher.draw(self.wanted, seed=self.seed, steps=self.steps)
        return self._teacher

    def forget(self) -> None:
        """The teacher's: what comes next doesn't need them, or can't have them."""
        self._teacher = None

    def figures(self, drawn: Later = None) -> Later | None:
        """How good the generator is, None where nothing says so. drawn: its samples, where they are there."""
        if self.measured:
            return self.evaluator.measure(self.of_generator() if drawn is None else drawn)
        return self.evaluator.measure_weights(self.company.generator.averaged()) if self.judged else None

    def probe(self, drawn: Later) -> Later:
        """Where they are to be scored to be looked at. The evaluator has no part in it: it may be behind, and roles would wait for it."""
        return self.company.generator.probe(drawn, sigmas=self.sigmas, seed=self.seed)

    def scores(self, probe: Later, *roles: Any) -> list[Later]:
        """Of each role, at a probe."""
        return [role.score_at(probe, at_once=self.at_once) for role in roles]
