"""The trials of `path: auto` as stages of a run: their steps are kept where they lead somewhere, else undone."""

from itertools import islice
from typing import Any

from disback_ray.algorithms import backtracking
from disback_ray.algorithms.cast import Step
from disback_ray.algorithms.path import Switch
from disback_ray.auto_path import Trial, kept_stage, without_a_path, without_nodes
from disback_ray.rehearsal.crew import Crew
from disback_ray.run_folder import newest_checkpoint


def try_without(crew: Crew) -> None:
    """The first steps against the teacher alone, from their newest checkpoint, and what they say. Raises Stopped, NonFiniteError."""
    auto, known = crew.production.recipe.path, crew.production.summary.trial
    if auto != "fixed" and auto.trial and "path" not in known:
        trial = without_a_path(auto.trial, gain=auto.gain)
        crew.player.play(trial.stage, lambda: _try(crew, trial, known))


def try_warm(crew: Crew) -> None:
    """The same once the path is recorded, with s_φ from its end: whether its nodes are wanted as well."""
    production = crew.production
    auto, summary = production.recipe.path, production.summary
    if auto == "fixed" or not auto.trial or kept_stage(summary.trial) == backtracking.TRIAL:
        return
    if newest_checkpoint(production.folder, backtracking.STAGE) is not None:
        return
    if production.recipe.backtracking.fake_init != "path_end":
        return  # it would be the first trial once more
    trial, known = without_nodes(auto.trial, node=len(production.recipe.marks)), summary.trial.setdefault("warm", {})
    if "path" not in known:
        crew.player.play(trial.stage, lambda: _try(crew, trial, known))


def _try(crew: Crew, trial: Trial, known: dict[str, Any]) -> None:
    """Plays its steps until a look says that they lead nowhere; then they are undone, else they are kept. known: of the summary."""
    production, player = crew.production, crew.player
    found = newest_checkpoint(production.folder, trial.stage, refuse=production.say)
    start = found.step if found else 0
    crew.checkpoints.enter(trial.stage, found, node=trial.node)
    apart = {step: distance for step, distance in known.get("apart", []) if step < start}
    player.begin(f"trying {trial.title}", steps=trial.steps, start=start)
    steps, done, kept = player.backtracking([Switch(0, 0)], start, trial.stage), start, False
    for mark in (0, *trial.looks):
        if mark < start:
            continue  # a look that is behind says no more than it did
        last = player.follow(islice(steps, mark - done), after=lambda step: _between(crew, step, until=trial.steps))
        if production.stop.is_set():
            player.end(trial.stage, last, total=trial.steps)
        done = mark
        apart[done] = _distance(crew)
        known["apart"] = [[step, apart[step]] for step in sorted(apart)]
        if mark and not (kept := trial.leads_somewhere(apart)):
            break
    player.books.close(batch=production.recipe.batch)
    if kept:
        crew.checkpoints.keep(trial.stage, done)
        crew.follower.finish()
    else:
        crew.company.wait(crew.company.generator.rewind())
    known["path"] = not kept
    production.save_summary()
    production.say(trial.told(apart, kept=kept))


def _between(crew: Crew, step: Step, *, until: int) -> None:
    done = step.step + 1
    if crew.samples.measured and done % crew.production.recipe.evaluation.every == 0:
        crew.looks.look(step)
    if crew.checkpoints.is_due(step) and done < until:
        crew.checkpoints.keep(step.stage, done)


def _distance(crew: Crew) -> float:
    """How far the generator's samples are from the teacher's, once all that is asked for has come."""
    found: list[float] = []
    drawn = crew.samples.of_generator()
    crew.follower.ask(crew.company.evaluator.apart(drawn, crew.samples.of_teacher()), found.append)
    crew.follower.finish()
    return found[0]
