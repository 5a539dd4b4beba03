"""The stages that the cast plays: a look at the start, Algorithm 1, Algorithm 2, and a look at the end."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from disback_ray.actors.company import Company
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.cast import Step
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import Switch, plateau_switches, target_at
from disback_ray.auto_path import Trial, keyed, without_a_path, without_nodes
from disback_ray.config import TeacherFile
from disback_ray.data.prompts import PromptsData
from disback_ray.data.sources import GridData, ImagesData, NoData, RingData
from disback_ray.errors import CheckpointError, NonFiniteError
from disback_ray.evaluation.alarms import Alarm, alarms
from disback_ray.evaluation.verdict import verdict
from disback_ray.following import Follower
from disback_ray.nonfinite import NONFINITE, skip, skipped_steps, write_keys
from disback_ray.production import Production, Stopped
from disback_ray.run_folder import (
    CHECKPOINTS,
    STAGES,
    Checkpoint,
    checkpoint_name,
    drop_checkpoints,
    drop_checkpoints_after,
    newest_checkpoint,
    save_checkpoint,
)
from disback_ray.storage import Folder
from disback_ray.teachers.path_nodes import check_node
from disback_ray.trace import TRACE, Books

PROBED = 4
"""So many micro-batches' samples are looked at together: without gradients they take less room than one that is learnt from."""
WATCHED, LAG = 5, 2
"""With `path.switch: plateau`: steps between two looks at the present node, and from a look to the switch that it decides."""


class Rehearsal:
    """The stages that need the cast, each going on from wherever the run's folder says it stands."""

    def __init__(self, production: Production, company: Company) -> None:
        self.production = production
        self.company = company
        self.recipe, self.summary = production.recipe, production.summary
        self.summary.roles = company.seats
        self.follower = Follower(company, production.metrics, production.watch, stop=production.stop, trace=production.trace)
        self.books = Books(company, self.follower)
        self.cast, self.evaluator = self.company.cast, self.company.evaluator
        self.of_points = isinstance(self.recipe.data, (RingData, GridData))
        self.auto = None if self.recipe.path == "fixed" else self.recipe.path
        self.marks = self.recipe.marks
        self.plan: list[Switch] = []
        self.watched: tuple[int, Any] | None = None
        self.gaps: dict[int, float] = {}
        self.teachers: Any = None
        self.seed = self.production.seed
        self.pictures = self.recipe.evaluation.pictures > 0
        self.frames = self.of_points and self.pictures
        self.measured = not isinstance(self.recipe.data, NoData | ImagesData | PromptsData)
        self.judged = self.recipe.evaluation.reference is not None
        self.wanted = self.evaluator.wanted() if self.measured else None
        self.wanted_pictures = self.evaluator.wanted_pictures()
        self.wanted_look = self.wanted if self.measured else self.evaluator.wanted_look()
        self.at_once = PROBED * max(1, self.recipe.batch // self.recipe.micro_batches)

    # -- the stages --

    def try_without(self) -> None:
        """`path: auto`: the first steps against the teacher alone, from their newest checkpoint, and what they say.

        Raises Stopped, NonFiniteError.
        """
        if self.auto and self.auto.trial and "path" not in self.summary.trial:
            trial = without_a_path(self.auto.trial, gain=self.auto.gain)
            self._play(trial.stage, lambda: self._try(trial, self.summary.trial))

    def try_warm(self) -> None:
        """`path: auto`: the same once the path is recorded, with s_φ from its end: whether its nodes are wanted as well."""
        if not self.auto or not self.auto.trial or self._goes_without() or self._has_begun(backtracking.STAGE):
            return
        if self.recipe.backtracking.fake_init != "path_end":
            return  # it would be the first trial once more
        trial, known = without_nodes(self.auto.trial, node=len(self.marks)), self.summary.trial.setdefault("warm", {})
        if "path" not in known:
            self._play(trial.stage, lambda: self._try(trial, known))

    def _try(self, trial: Trial, known: dict[str, Any]) -> None:
        """Plays its steps until a look says that they lead nowhere; then they are undone, else they are kept. known: of the summary."""
        found = newest_checkpoint(self.production.folder, trial.stage, refuse=self.production.say)
        start = found.step if found else 0
        self._enter(trial.stage, found, node=trial.node)
        apart = {step: distance for step, distance in known.get("apart", []) if step < start}
        self.production.watch.stage(f"trying {trial.title}", steps=trial.steps, start=start)
        self.books.open()
        steps, done, kept = self._backtracking([Switch(0, 0)], start, trial.stage), start, False
        for mark in (0, *trial.looks):
            if mark < start:
                continue  # a look that is behind says no more than it did
            last = self._follow(islice(steps, mark - done), after=lambda step: self._after_trial(step, until=trial.steps))
            if self.production.stop.is_set():
                self._end(trial.stage, last, total=trial.steps)
            done = mark
            apart[done] = self._distance()
            known["apart"] = [[step, apart[step]] for step in sorted(apart)]
            if mark and not (kept := trial.leads_somewhere(apart)):
                break
        self.books.close(batch=self.recipe.batch)
        if kept:
            self._checkpoint(trial.stage, done)
            self.follower.finish()
        else:
            self.company.wait(self.company.generator.rewind())
        known["path"] = not kept
        self.production.save_summary()
        self.production.say(trial.told(apart, kept=kept))

    def _distance(self) -> float:
        """How far the generator's samples are from the teacher's, once all that is asked for has come."""
        found: list[float] = []
        drawn = self.company.generator.draw(self.wanted_look, seed=self.seed)
        self.follower.ask(self.evaluator.apart(drawn, self._teachers()), found.append)
        self.follower.finish()
        return found[0]

    def _teachers(self) -> Any:
        """The teacher's own samples, drawn once for all that is measured against them before the path; later."""
        if self.teachers is None:
            steps = self.recipe.teacher.sampling_steps
            self.teachers = self.company.teacher.draw(self.wanted_look, seed=self.seed, steps=steps)
        return self.teachers

    def look_at_the_start(self) -> None:
        """What the teacher makes in many steps, the untrained generator in one, and real data against itself."""
        seen = self.summary.metrics if self.measured else {picture["file"] for picture in self.summary.pictures}
        if ("untrained" if self.measured else "samples/untrained.png") in seen or (not self.pictures and self.summary.bounds):
            return
        if self.judged:
            self.summary.measured_by = self.company.wait(self.evaluator.measured_by())
            self.production.say("; ".join(f"{name}: {what}" for name, what in self.summary.measured_by.items()))
        self.production.watch.stage("measuring the teacher" if self.measured else "drawing from the teacher")
        teacher = self.recipe.teacher
        sampling: dict[str, Any] = {"seed": self.seed, "steps": teacher.sampling_steps}
        figures: dict[str, Any] = {}
        if self.measured:
            figures["teacher"] = self.evaluator.measure(self._teachers())
            figures["untrained"] = self.evaluator.measure(self.company.generator.draw(self.wanted, seed=self.seed))
            figures["real_halves"] = self.evaluator.real_halves()
        if self.judged:
            figures["untrained"] = self._judge()
        bounds = self._bounds()
        steps = "one step" if isinstance(teacher, TeacherFile) and teacher.draws_in_one_step else "many steps"
        if self.pictures:
            self._picture(self.company.teacher.draw(self.wanted_pictures, **sampling), "teacher", f"The teacher, {steps}")
        self._generator_picture("untrained", "The generator, untrained")
        self.follower.finish()
        self.summary.metrics |= {name: self.company.wait(later) for name, later in figures.items()}
        self.summary.bounds = self.company.wait(bounds)

    def record(self) -> None:
        """Algorithm 1, from its newest checkpoint. Raises Stopped, NonFiniteError."""
        self.teachers = None
        self._play(degradation.STAGE, self._record)

    def backtrack(self) -> None:
        """Algorithm 2, from its newest checkpoint. Raises Stopped, NonFiniteError."""
        self.teachers = None
        self._play(backtracking.STAGE, self._backtrack)

    def _play(self, stage: str, play: Callable[[], None]) -> None:
        """Where a step has NaN or Inf and is to be skipped, goes back to before it, and on without it."""
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
                self.teachers = None
                self.company.renew()
                drop_checkpoints_after(self.production.folder, stage, step)  # with s_φ behind, they may hold half of the step
                self.production.save_summary()

    def _record(self) -> None:
        if self._kept_trial():
            return
        later = newest_checkpoint(self.production.folder, backtracking.STAGE)
        wrong, recorded = self._wrong_node(later), self._recorded()
        half_way = 0 < recorded < self.recipe.recording.steps  # killed there; maybe while a node was recorded again
        if wrong is None and not half_way and (later or recorded == self.recipe.recording.steps):
            return
        before = min([*([self.marks[wrong - 1]] if wrong else []), *([recorded + 1] if half_way else [])], default=None)
        found = newest_checkpoint(self.production.folder, degradation.STAGE, before=before, refuse=self.production.say)
        start = found.step if found else 0
        self._enter(degradation.STAGE, found, node=0, order=(degradation.STAGE,))  # what came after it stays
        self.production.watch.stage("recording", steps=self.recipe.recording.steps, start=start)
        self.books.open()
        steps = degradation.degradation_recording(
            self.cast,
            self.marks,
            batches_of=self._batches,
            start=start,
            skipped=skipped_steps(self.summary, degradation.STAGE),
        )
        last = self._follow(steps, after=self._after_recording)
        self._end(degradation.STAGE, last, total=self.recipe.recording.steps)

    def _backtrack(self) -> None:
        back, trial = self.recipe.backtracking, self._kept_trial()
        found = newest_checkpoint(self.production.folder, backtracking.STAGE, refuse=self.production.say)
        if trial and found is None:
            found = newest_checkpoint(self.production.folder, trial, refuse=self.production.say)
            if found is None:
                raise CheckpointError(
                    f"{self.production.folder.uri}: the checkpoint of the steps against the teacher alone is damaged: "
                    "--fresh runs it anew"
                )
        start = found.step if found else 0
        starts: dict[str, int | None] = {"path_end": len(self.marks), "teacher": 0, "random": None}
        self._enter(backtracking.STAGE, found, node=starts[back.fake_init])  # of a kept trial, its checkpoint says
        self._set_plan()
        if self.frames and start == 0:
            self.follower.ask(self.evaluator.keep_frame(self._drawn(), 0))
            self._figure_9("figure-9-start", "Score fields before backtracking (Figure 9)")
        self.production.watch.stage("backtracking", steps=back.steps, start=start)
        self.books.open()
        steps = self._backtracking(self.plan, start, backtracking.STAGE)
        last = self._follow(steps, after=self._after_backtracking)
        self._end(backtracking.STAGE, last, total=back.steps)

    def _follow(self, steps: Iterator[Step], *, after: Callable[[Step], None]) -> Step | None:
        """Plays the steps, for as long as the folder is this run's. Raises RunFolderError."""

        def then(step: Step) -> None:
            if self.production.lock.lost.is_set():
                self.production.lock.require()
            after(step)

        return self.follower.follow(steps, after=then)

    def _backtracking(self, plan: Sequence[Switch], start: int, stage: str) -> Iterator[Step]:
        back = self.recipe.backtracking
        return backtracking.distribution_backtracking(
            self.cast, plan, steps=back.steps, batches_of=self._batches, fake_updates=back.fake_updates, staleness=back.staleness,
            blend=back.blend, start=start, stage=stage, skipped=skipped_steps(self.summary, stage),
        )  # fmt: skip

    def evaluate(self) -> None:
        """The final generator, its pictures and its weights."""
        self.production.watch.stage("measuring the generator" if self.measured else "drawing from the generator")
        final = self.evaluator.measure(self._drawn()) if self.measured else self._judge() if self.judged else None
        self._generator_picture("generator", "The generator, one step")
        if self.frames:
            self._ask_picture(lambda file: self.evaluator.figure_8(file), "figure-8", "The student along training (Figure 8)")
            self._figure_9("figure-9-end", "Score fields at the end (Figure 9)")
        self.follower.ask(self.company.generator.export(self.production.folder / "generator"))
        self.follower.finish()
        wait = self.company.wait
        digests = wait([self.company.generator.digest(), self.company.fake_score.digest()])
        if final is not None:
            self.summary.metrics["generator"] = wait(final)
        raised = [Alarm(**alarm) for alarm in self.summary.alarms]
        bounds = self.summary.bounds
        self.summary.verdict = verdict(
            self._looks(), self.summary.metrics, raised,
            real_spread=bounds.get("spread"), lower_bound=bounds.get("mismatch"), lost=self._lost(),
        )  # fmt: skip
        self.summary.digest = hashlib.sha256("".join(digests).encode()).hexdigest()

    # -- between the steps --

    def _after_recording(self, step: Step) -> None:
        if self._must_keep(step):
            self._checkpoint(degradation.STAGE, step.step + 1)

    def _after_trial(self, step: Step, *, until: int) -> None:
        done = step.step + 1
        if self.measured and self._due(step, self.recipe.evaluation.every):
            drawn = self._drawn()
            self._look(drawn, self.evaluator.measure(drawn), done, step.node, node_ends=False, stage=step.stage)
        if self._must_keep(step) and done < until:
            self._checkpoint(step.stage, done)

    # -- where the path's nodes are left by a rule --

    def _set_plan(self) -> None:
        """The targets so far, by the recipe's steps or by what was seen of the present node."""
        if self._kept_trial():
            self.plan[:] = [Switch(0, 0)]
        elif self._by_plateau():
            seen = sorted(self.gaps.items())
            most = self.recipe.backtracking.steps_per_node
            assert isinstance(most, int)
            blend = self.recipe.backtracking.blend
            self.plan[:] = plateau_switches(seen, nodes=len(self.marks), most=most, lag=LAG, blend=blend)
        else:
            self.plan[:] = self.recipe.switches
        self.summary.switches = [{"step": switch.step, "node": switch.node} for switch in self.plan]

    def _watch_target(self, step: Step) -> None:
        """Looks at how far s_φ is from the present node; what was seen LAG steps ago may end it."""
        done = step.step + 1
        if self.watched is not None and done == self.watched[0] + LAG:
            looked, later = self.watched
            self._saw_gap(looked, self.company.wait(later))
            self.watched = None
            self._set_plan()
        if step.node and done % WATCHED == 0:
            probe = self.evaluator.probe(self.company.generator.draw(self.wanted_look, seed=self.seed))
            target, fake = (role.score_at(probe, at_once=self.at_once) for role in (self.cast.path_node, self.company.fake_score))
            later = self.evaluator.gap(probe, target, fake)
            self.watched = (done, later)
            self.follower.ask(later, lambda found: self._saw_gap(done, found))

    def _saw_gap(self, done: int, found: dict[str, float]) -> None:
        self.gaps[done] = found["target_gap"]
        self.production.metrics.amend(backtracking.STAGE, done, found)

    def _by_plateau(self) -> bool:
        return self.auto is not None and self.auto.switch == "plateau"

    def _goes_without(self) -> bool:
        """Whether `path: auto` has found that no path is wanted."""
        return self.summary.trial.get("path") is False

    def _kept_trial(self) -> str | None:
        """The stage of the steps that Algorithm 2 goes on from with the teacher as its target, if there is one."""
        if self._goes_without():
            return backtracking.TRIAL
        return backtracking.WARM if self.summary.trial.get("warm", {}).get("path") is False else None

    def _has_begun(self, stage: str) -> bool:
        return newest_checkpoint(self.production.folder, stage) is not None

    def _after_backtracking(self, step: Step) -> None:
        if self._by_plateau():
            self._watch_target(step)
        done, total = step.step + 1, self.recipe.backtracking.steps
        node_ends = any(switch.step == done for switch in self.plan)
        due = self._due(step, self.recipe.evaluation.every)
        if self.measured and (due or node_ends or done == total):
            drawn = self._drawn()
            self._look(drawn, self.evaluator.measure(drawn), done, step.node, node_ends=node_ends)
            if self.frames:
                self.follower.ask(self.evaluator.keep_frame(drawn, done))
        elif due or node_ends or done == total:
            drawn = self.company.generator.draw(self.wanted_look, seed=self.seed)
            self._look(drawn, self._judge() if self.judged else None, done, step.node, node_ends=node_ends)
        if due and not self.measured:
            self._generator_picture("latest", "The generator at its last look while it trained")
        if node_ends:
            self._generator_picture(f"node-{step.node}", f"The generator at the end of node {step.node} (step {done})")
        if self._must_keep(step) and done < total:
            self._checkpoint(backtracking.STAGE, done)

    def _bounds(self) -> Any:
        """What the teacher's score and real data come to, or where there is none, the teacher's own samples; later."""
        drawn = self.evaluator.real() if self.measured else self._teachers()
        probe = self.evaluator.probe(drawn)
        return self.evaluator.bounds(drawn, probe, self.company.teacher.score_at(probe, at_once=self.at_once))

    def _look(
        self, drawn: Any, measured: Any | None, done: int, node: int, *, node_ends: bool, stage: str = backtracking.STAGE
    ) -> None:
        """Asks for what says whether the run converges; no step waits for it."""
        probe = self.evaluator.probe(drawn)
        teacher, fake = (role.score_at(probe, at_once=self.at_once) for role in (self.company.teacher, self.company.fake_score))
        asked = [self.evaluator.look(drawn, probe, teacher, fake)] + ([] if measured is None else [measured])
        self.follower.ask(asked, lambda found: self._looked(done, node, *found, node_ends=node_ends, stage=stage))

    def _looked(
        self,
        done: int,
        node: int,
        looked: dict[str, float],
        measured: dict[str, float] | None = None,
        *,
        node_ends: bool,
        stage: str,
    ) -> None:
        self.production.metrics.amend(stage, done, looked | (measured or {}))
        self.production.watch.step(done, node=node, numbers=measured or {})
        if node_ends and measured is not None:
            self.summary.metrics.setdefault("nodes", {})[str(node)] = measured
        self._warn()

    def _warn(self) -> None:
        """Says each alarm once, when its rule first holds; an interrupted run that goes on finds the same ones."""
        known = {alarm["kind"] for alarm in self.summary.alarms}
        bounds, start = self.summary.bounds, self.summary.metrics.get("untrained")
        for alarm in alarms(self._looks(), start=start, lower_bound=bounds.get("mismatch"), real_spread=bounds.get("spread")):
            if alarm.kind not in known:
                self.summary.alarms.append(asdict(alarm))
                self.production.watch.say(f"step {alarm.step:,}: {alarm.text}")

    def _looks(self) -> list[dict[str, Any]]:
        return [
            row for row in self.production.metrics.rows if row["stage"] == backtracking.STAGE and row.get("spread") is not None
        ]

    def _lost(self) -> int:
        """Steps of Algorithm 2 without a row: metrics.parquet was gone or damaged when the run went on."""
        stages = {backtracking.STAGE, self._kept_trial()}
        return self.recipe.backtracking.steps - len({r["step"] for r in self.production.metrics.rows if r["stage"] in stages})

    def _due(self, step: Step, every: int) -> bool:
        return (step.step + 1) % every == 0

    def _must_keep(self, step: Step) -> bool:
        """At the recipe's steps, before the log of the roles' calls grows beyond its budget, and before a machine goes."""
        if leaving := self.company.leaving():
            self.production.say(f"{', '.join(leaving)} is to go: checkpoint now")
            return True
        most = self.company.log_steps
        return self._due(step, self.recipe.checkpoint_every) or (most is not None and step.step + 1 - self.checkpointed >= most)

    def _enter(self, stage: str, found: Checkpoint | None, *, node: int | None, order: Sequence[str] = STAGES) -> None:
        """Puts the cast where the stage begins, or where its checkpoint left it. order: of the stages that are to be played from here."""
        self.checkpointed = self.kept = found.step if found else 0
        self.gaps = dict(found.gaps) if found else {}
        self.production.metrics.forget_after(stage, self.checkpointed, order=order)
        later = []
        if found is None:
            later.append(self.company.fake_score.begin(keyed(stage), node=node))
        else:
            self.production.say(f"going on from {stage} step {found.step}")
            for role, proof in found.files.items():
                args, kwargs = self._loads(role, found.folder, stage, proof)
                later.append(getattr(self.company, role).load(*args, **kwargs))
        self.company.wait(later)
        self.company.kept()

    def _end(self, stage: str, last: Step | None, *, total: int) -> None:
        """Keeps the stage's end; if that is not where it was to end, raises Stopped."""
        if last is not None and (stage != degradation.STAGE or last.step + 1 < total):
            self._checkpoint(stage, last.step + 1)
            self.follower.finish()
        devices = self.books.close(batch=self.recipe.batch)
        if stage == backtracking.STAGE and devices["steps"]:
            self.summary.devices = devices
        if self.production.trace:
            self.production.folder.write_json(TRACE, self.books.trace.page(bottleneck=devices["bottleneck"], stage=stage))
        self.production.metrics.flush()
        if self.production.stop.is_set():
            raise Stopped

    def _checkpoint(self, stage: str, done: int) -> None:
        """Asks for it; it is written in passing, but the steps wait for the one before where the log would hold two budgets' worth."""
        self.production.lock.require()
        most = self.company.log_steps
        if most is not None and done - self.kept > most:
            self.follower.finish()
        folder = self.production.folder / CHECKPOINTS / checkpoint_name(stage, done)
        roles = ["fake_score"] if stage == degradation.STAGE else ["fake_score", "generator"]
        taken = [getattr(self.company, role).snapshot() for role in roles]
        written = [getattr(self.company, role).write(snapshot, folder) for role, snapshot in zip(roles, taken, strict=True)]
        self.checkpointed = done

        def keep(proofs: list[dict[str, Any]]) -> None:
            self.production.metrics.flush()  # before the manifest: whoever goes on from it finds all that came before
            self.production.save_summary()
            gaps = [(at, gap) for at, gap in sorted(self.gaps.items()) if at <= done]
            save_checkpoint(self.production.folder, stage, done, dict(zip(roles, proofs, strict=True)), gaps=gaps)
            loads = (self._loads(role, folder, stage, proof) for role, proof in zip(roles, proofs, strict=True))
            self.company.kept([(snapshot, *load) for snapshot, load in zip(taken, loads, strict=True)])
            self.kept = done
            drop_checkpoints(self.production.folder, stage, done, keep=self.production.keep)

        self.follower.ask(written, keep)

    def _loads(self, role: str, folder: Folder, stage: str, proof: dict[str, Any]) -> tuple[tuple[Folder], dict[str, str]]:
        """What a role's load() takes to go on from its file in a checkpoint."""
        return (folder,), {"sha256": proof["sha256"]} | ({"stage": keyed(stage)} if role == "fake_score" else {})

    def _wrong_node(self, later: Checkpoint | None) -> int | None:
        """The first node that is missing or damaged, of those that Algorithm 2 still needs. later: its checkpoint to go on from."""
        path, most = self.production.places.run / "path", len(self.marks)
        if later:
            self.gaps = dict(later.gaps)
            self._set_plan()
            most = target_at(max(0, later.step - self.recipe.backtracking.blend), self.plan)
        for node in range(1, most + 1):
            try:
                check_node(path, node)
            except CheckpointError as error:
                if later or path.has(f"node-{node}.json"):
                    self.production.say(f"node {node} of the path is refused: {error}; it is recorded again")
                return node
        return None

    def _recorded(self) -> int:
        """The last step of recording that has a row; 0 where there is none, or they were lost."""
        return max((row["step"] for row in self.production.metrics.rows if row["stage"] == degradation.STAGE), default=0)

    def _batches(self, stage: str, step: int) -> Sequence[Batch]:
        return micro_batches(Batch(self.seed, stage, step, 0, self.recipe.batch), self.recipe.micro_batches)

    # -- pictures --

    def _drawn(self) -> Any:
        return self.company.generator.draw(self.wanted, seed=self.seed)

    def _judge(self) -> Any:
        """The images' Fréchet distance, of a copy of the weights, where the evaluator is; later."""
        return self.evaluator.measure_weights(self.company.generator.averaged())

    def _generator_picture(self, name: str, title: str) -> None:
        if self.pictures:
            self._picture(self.company.generator.draw(self.wanted_pictures, seed=self.seed), name, title)

    def _picture(self, drawn: Any, name: str, title: str) -> None:
        self._ask_picture(lambda file: self.evaluator.picture(drawn, file), name, title)

    def _ask_picture(self, make: Callable[[str], Any], name: str, title: str) -> None:
        file = f"{name}.png"
        self.follower.ask(make(file), lambda _: self.summary.picture(f"samples/{file}", title))

    def _figure_9(self, name: str, title: str) -> None:
        assert isinstance(self.recipe.data, (RingData, GridData))
        grid, sigma = self.evaluator.grid(), 5 * self.recipe.data.std
        teacher = self.company.teacher.field(grid, sigma=sigma)
        fake = self.company.fake_score.field(grid, sigma=sigma)
        self._ask_picture(lambda file: self.evaluator.figure_9(teacher, fake, self._drawn(), file), name, title)
