"""A stage that is played again without a step goes on from before that step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from disback_ray.errors import NonFiniteError
from disback_ray.rehearsal.playing import Player
from disback_ray.run_folder import CHECKPOINTS, Summary, checkpoint_name, save_checkpoint
from disback_ray.storage import Folder

STAGE = "backtracking"


def test_a_skipped_step_leaves_no_checkpoint_that_holds_half_of_it(tmp_path: Path) -> None:
    """With s_φ behind, G may have been saved with a step at which s_φ then finds NaN."""
    folder = Folder.at(tmp_path)
    for stage, step in (("recording", 20), (STAGE, 4), (STAGE, 8), (STAGE, 12)):
        save_checkpoint(folder, stage, step, {})
    (folder / CHECKPOINTS / checkpoint_name(STAGE, 6)).write_json("half", {})  # its roles' files, and no manifest yet
    begun: list[list[str]] = []

    def play() -> None:
        begun.append(sorted((folder / CHECKPOINTS).names()))
        if len(begun) == 1:
            raise NonFiniteError("the loss is nan", {"stage": STAGE, "step": 8})

    def nothing(*_: object) -> None: ...

    production: Any = SimpleNamespace(
        recipe=None, summary=Summary("ring8", 0), skips=True, say=nothing, folder=folder, save_summary=nothing
    )
    company: Any = SimpleNamespace(renew=nothing)
    follower: Any = SimpleNamespace(give_up=nothing)
    samples: Any = SimpleNamespace(forget=nothing)
    checkpoints: Any = None
    Player(production, company, follower, samples, checkpoints).play(STAGE, play)
    left = sorted([checkpoint_name("recording", 20), checkpoint_name(STAGE, 4), checkpoint_name(STAGE, 8)])
    assert begun[1:] == [left], "the one after 8 steps has steps 0 to 7"
