"""Plays the steps of a stage, and keeps its end; a step that has NaN or Inf is left out, where that is asked for."""

from collections.abc import Callable, Iterator, Sequence

from disback_ray.actors.company import Company
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.cast import Step
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import Switch
from disback_ray.auto_path import keyed
from disback_ray.errors import NonFiniteError
from disback_ray.following import Follower
from disback_ray.nonfinite import NONFINITE, skip, skipped_steps, write_keys
from disback_ray.production import Production, Stopped
from disback_ray.rehearsal.checkpoints import Checkpoints
from disback_ray.rehearsal.samples import Samples
from disback_ray.run_folder import drop_checkpoints_after
from disback_ray.trace import TRACE, Books


class Player:
    """books: what the present stage's calls cost."""

    def __init__(
        self, production: Production, company: Company, follower: Follower, samples: Samples, checkpoints: Checkpoints
    ) -> None:
        self.production, self.company, self.follower = production, company, follower
        self.samples, self.checkpoints = samples, checkpoints
        self.recipe, self.summary = production.recipe, production.summary
        self.books = Books(company, follower)

    def play(self, stage: str, play: Callable[[], None]) -> None:
        """Where a step has NaN or Inf and is to be skipped, goes back to before it, and on without it.

        play: plays the stage from its newest checkpoint. Raises what it does.
        """
        while True:
            try:
                return play()
            except NonFiniteError as error:
                if not self.production.skips:
                    raise
                step = skip(self.summary, stage, error, keyed=keyed(stage))
                self.production.say(f"skipped: {error}; the keys of its samples are in {NONFINITE}")
                write_keys(self.production.folder, error)
                self.follower.give_up()
                self.samples.forget()
                self.company.renew()
                drop_checkpoints_after(self.production.folder, stage, step)  # with s_φ behind, they may hold half of the step
                self.production.save_summary()

    def begin(self, title: str, *, steps: int, start: int) -> None:
        """title: for those who watch. start: of so many steps, those that are done."""
        self.production.watch.stage(title, steps=steps, start=start)
        self.books.open()

    def recording(self, start: int) -> Iterator[Step]:
        return degradation.degradation_recording(
            self.company.cast, self.recipe.marks,
            batches_of=self._batches, start=start, skipped=skipped_steps(self.summary, degradation.STAGE),
        )  # fmt: skip

    def backtracking(self, plan: Sequence[Switch], start: int, stage: str = backtracking.STAGE) -> Iterator[Step]:
        back = self.recipe.backtracking
        return backtracking.distribution_backtracking(
            self.company.cast, plan, steps=back.steps, batches_of=self._batches, fake_updates=back.fake_updates,
            staleness=back.staleness, blend=back.blend, start=start, stage=stage, skipped=skipped_steps(self.summary, stage),
        )  # fmt: skip

    def _batches(self, stage: str, step: int) -> Sequence[Batch]:
        return micro_batches(Batch(self.production.seed, stage, step, 0, self.recipe.batch), self.recipe.micro_batches)

    def follow(self, steps: Iterator[Step], *, after: Callable[[Step], None]) -> Step | None:
        """Plays the steps, for as long as the folder is this run's. Returns the last one. Raises RunFolderError."""

        def then(step: Step) -> None:
            if self.production.lock.lost.is_set():
                self.production.lock.require()
            after(step)

        return self.follower.follow(steps, after=then)

    def end(self, stage: str, last: Step | None, *, total: int) -> None:
        """Keeps the stage's end; if that is not where it was to end, raises Stopped."""
        if last is not None and (stage != degradation.STAGE or last.step + 1 < total):
            self.checkpoints.keep(stage, last.step + 1)
            self.follower.finish()
        devices = self.books.close(batch=self.recipe.batch)
        if stage == backtracking.STAGE and devices["steps"]:
            self.summary.devices = devices
        if self.production.trace:
            self.production.folder.write_json(TRACE, self.books.trace.page(bottleneck=devices["bottleneck"], stage=stage))
        self.production.metrics.flush()
        if self.production.stop.is_set():
            raise Stopped
