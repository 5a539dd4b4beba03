"""Algorithm 2 as a stage of a run: from the path's end, or from steps that were tried and kept, to the teacher."""

from disback_ray.algorithms.backtracking import STAGE
from disback_ray.algorithms.cast import Step
from disback_ray.auto_path import kept_stage
from disback_ray.errors import CheckpointError
from disback_ray.rehearsal.crew import Crew
from disback_ray.run_folder import Checkpoint, newest_checkpoint


def backtrack(crew: Crew) -> None:
    """Algorithm 2, from its newest checkpoint. Raises Stopped, NonFiniteError."""
    crew.samples.forget()
    crew.player.play(STAGE, lambda: _backtrack(crew))


def _backtrack(crew: Crew) -> None:
    recipe = crew.production.recipe
    total = recipe.backtracking.steps
    found = _newest(crew)
    start = found.step if found else 0
    starts: dict[str, int | None] = {"path_end": len(recipe.marks), "teacher": 0, "random": None}
    crew.checkpoints.enter(STAGE, found, node=starts[recipe.backtracking.fake_init])  # of a kept trial, its checkpoint says
    crew.targets.set_plan()
    if start == 0:
        crew.pictures.before_backtracking()
    crew.player.begin("backtracking", steps=total, start=start)
    steps = crew.player.backtracking(crew.targets.plan, start)
    last = crew.player.follow(steps, after=lambda step: _between(crew, step))
    crew.player.end(STAGE, last, total=total)


def _newest(crew: Crew) -> Checkpoint | None:
    """Its own, or that of the steps that it goes on from. Raises CheckpointError where those are lost."""
    folder, say = crew.production.folder, crew.production.say
    found, trial = newest_checkpoint(folder, STAGE, refuse=say), kept_stage(crew.production.summary.trial)
    if trial and found is None:
        found = newest_checkpoint(folder, trial, refuse=say)
        if found is None:
            raise CheckpointError(
                f"{folder.uri}: the checkpoint of the steps against the teacher alone is damaged: --fresh runs it anew"
            )
    return found


def _between(crew: Crew, step: Step) -> None:
    """What is due after a step, and before the next one."""
    crew.targets.watch(step)
    done, recipe = step.step + 1, crew.production.recipe
    total = recipe.backtracking.steps
    node_ends = any(switch.step == done for switch in crew.targets.plan)
    must = node_ends or done == total
    due = done % recipe.evaluation.every == 0 and (must or not crew.looks.left_out(done))
    if due or must:
        drawn = crew.looks.look(step, node_ends=node_ends)
        crew.pictures.keep_frame(drawn, done)
    if due and not crew.samples.measured:
        crew.pictures.of_generator("latest", "The generator at its last look while it trained")
    if node_ends:
        crew.pictures.of_generator(f"node-{step.node}", f"The generator at the end of node {step.node} (step {done})")
    if crew.checkpoints.is_due(step) and done < total:
        crew.checkpoints.keep(STAGE, done)
