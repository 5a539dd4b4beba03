"""The pictures that a run asks for, where its recipe wants any: they are drawn in passing, and listed once they are there."""

from collections.abc import Callable

from disback_ray.actors.company import Company
from disback_ray.algorithms.cast import Later
from disback_ray.config import TeacherFile
from disback_ray.data.sources import GridData, RingData
from disback_ray.following import Follower
from disback_ray.production import Production
from disback_ray.rehearsal.samples import Samples


class Pictures:
    """wanted: whether any are; figures: whether those of the paper's points are, too."""

    def __init__(self, production: Production, company: Company, follower: Follower, samples: Samples) -> None:
        self.production, self.company, self.follower, self.samples = production, company, follower, samples
        self.evaluator, self.data = company.evaluator, production.recipe.data
        self.wanted = production.recipe.evaluation.pictures > 0
        self.figures = self.wanted and isinstance(self.data, (RingData, GridData))
        self.noise = self.evaluator.wanted_pictures()

    def of_teacher(self) -> None:
        if self.wanted:
            teacher = self.production.recipe.teacher
            steps = "one step" if isinstance(teacher, TeacherFile) and teacher.draws_in_one_step else "many steps"
            drawn = self.company.teacher.draw(self.noise, seed=self.samples.seed, steps=self.samples.steps)
            self._ask("teacher", f"The teacher, {steps}", lambda file: self.evaluator.picture(drawn, file))

    def of_generator(self, name: str, title: str) -> None:
        if self.wanted:
            drawn = self.company.generator.draw(self.noise, seed=self.samples.seed)
            self._ask(name, title, lambda file: self.evaluator.picture(drawn, file))

    def before_backtracking(self) -> None:
        if self.figures:
            self.keep_frame(self.samples.of_generator(), 0)
            self._figure_9("figure-9-start", "Score fields before backtracking (Figure 9)")

    def keep_frame(self, drawn: Later, done: int) -> None:
        """Keeps the samples after so many steps for Figure 8."""
        if self.figures:
            self.follower.ask(self.evaluator.keep_frame(drawn, done))

    def at_the_end(self) -> None:
        self.of_generator("generator", "The generator, one step")
        if self.figures:
            self._ask("figure-8", "The student along training (Figure 8)", lambda file: self.evaluator.figure_8(file))
            self._figure_9("figure-9-end", "Score fields at the end (Figure 9)")

    def _figure_9(self, name: str, title: str) -> None:
        assert isinstance(self.data, (RingData, GridData))
        grid, sigma = self.evaluator.grid(), 5 * self.data.std
        teacher, fake = (role.field(grid, sigma=sigma) for role in (self.company.teacher, self.company.fake_score))
        drawn = self.samples.of_generator()
        self._ask(name, title, lambda file: self.evaluator.figure_9(teacher, fake, drawn, file))

    def _ask(self, name: str, title: str, make: Callable[[str], Later]) -> None:
        file = f"{name}.png"
        self.follower.ask(make(file), lambda _: self.production.summary.picture(f"samples/{file}", title))
