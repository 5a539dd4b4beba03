"""Algorithm 1 as a stage of a run: the path, and again what of it is missing or damaged while it is still needed."""

from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.cast import Step
from disback_ray.auto_path import kept_stage
from disback_ray.errors import CheckpointError
from disback_ray.rehearsal.crew import Crew
from disback_ray.run_folder import Checkpoint, newest_checkpoint
from disback_ray.teachers.path_nodes import check_node


def record(crew: Crew) -> None:
    """Algorithm 1, from its newest checkpoint. Raises Stopped, NonFiniteError."""
    crew.samples.forget()
    crew.player.play(degradation.STAGE, lambda: _record(crew))


def _record(crew: Crew) -> None:
    production, steps = crew.production, crew.production.recipe.recording.steps
    if kept_stage(production.summary.trial):
        return
    later = newest_checkpoint(production.folder, backtracking.STAGE)
    recorded = _recorded(crew)
    wrong = _wrong_node(crew, later, recorded)
    half_way = 0 < recorded < steps  # killed there; maybe while a node was recorded again
    if wrong is None and not half_way and (later or recorded == steps):
        return
    marks = production.recipe.marks
    before = min([*([marks[wrong - 1]] if wrong else []), *([recorded + 1] if half_way else [])], default=None)
    found = newest_checkpoint(production.folder, degradation.STAGE, before=before, refuse=production.say)
    start = found.step if found else 0
    crew.checkpoints.enter(degradation.STAGE, found, node=0, order=(degradation.STAGE,))  # what came after it stays
    crew.player.begin("recording", steps=steps, start=start)
    last = crew.player.follow(crew.player.recording(start), after=lambda step: _between(crew, step))
    crew.player.end(degradation.STAGE, last, total=steps)


def _between(crew: Crew, step: Step) -> None:
    if crew.checkpoints.is_due(step):
        crew.checkpoints.keep(degradation.STAGE, step.step + 1)


def _wrong_node(crew: Crew, later: Checkpoint | None, recorded: int) -> int | None:
    """The first node that is missing or damaged, of those that Algorithm 2 still needs; said, unless it was never there.

    later: its checkpoint to go on from, None where it has none. recorded: the last step that has a row, written once its node is there;
    a checkpoint comes after its node as well, where the rows are lost.
    """
    path, marks = crew.production.places.run / "path", crew.production.recipe.marks
    kept = newest_checkpoint(crew.production.folder, degradation.STAGE)
    recorded = max(recorded, kept.step if kept else 0)
    for node in range(1, crew.targets.farthest_needed(later) + 1):
        try:
            check_node(path, node)
        except CheckpointError as error:
            if later or marks[node - 1] <= recorded or path.has(f"node-{node}.json"):
                crew.production.say(f"node {node} of the path is refused: {error}; it is recorded again")
            return node
    return None


def _recorded(crew: Crew) -> int:
    """The last step of recording that has a row; 0 where there is none, or they were lost."""
    return max((row["step"] for row in crew.production.metrics.rows if row["stage"] == degradation.STAGE), default=0)
