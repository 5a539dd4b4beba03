"""What `path: auto` tries before it pays: Algorithm 2's first steps with the teacher as the target, kept where they lead somewhere."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from disback_ray.algorithms import backtracking
from disback_ray.algorithms.path import comes_nearer, leads_somewhere


@dataclass(frozen=True)
class Trial:
    """Steps that are called a stage of their own. title: what they are without.

    looks: after how many of them the samples are looked at, the last one at their end. node: what s_φ begins as.
    gain: the distance that they have to come to, of what it was; None: any that is less. kept, undone: what becomes of them.
    """

    stage: str
    title: str
    looks: tuple[int, ...]
    node: int
    gain: float | None
    kept: str
    undone: str

    @property
    def steps(self) -> int:
        return self.looks[-1]

    def leads_somewhere(self, apart: Mapping[int, float]) -> bool:
        """apart: how far the samples were from the teacher's after 0 steps and at each look so far."""
        distances = [apart[step] for step in sorted(apart)]
        if self.gain is None:
            return comes_nearer(distances)
        return leads_somewhere(distances, gain=self.gain, ended=max(apart) == self.steps)

    def told(self, apart: Mapping[int, float], *, kept: bool) -> str:
        """What came of it, in a line."""
        done = max(apart)
        return f"{done} steps {self.title} brought the samples from {apart[0]:.3g} to {apart[done]:.3g} of the teacher's: " + (
            self.kept if kept else self.undone
        )


def without_a_path(steps: int, *, gain: float) -> Trial:
    """Looked at four times: steps that lead nowhere mostly show it at once."""
    return Trial(
        backtracking.TRIAL, "without a path", _marks(steps, (0.25, 0.5, 0.75, 1)), 0, gain,
        "they are gone on with, and there is no path", "they are undone, and the path is recorded",
    )  # fmt: skip


def without_nodes(steps: int, *, node: int) -> Trial:
    """A quarter as many. node: the path's end. They have only to bring the samples nearer: the path is paid for, its nodes are not."""
    return Trial(
        backtracking.WARM, "without the path's nodes", _marks(steps, (0.125, 0.25)), node, None,
        "they are gone on with", "they are undone, and each node is the target in its turn",
    )  # fmt: skip


def _marks(steps: int, shares: Iterable[float]) -> tuple[int, ...]:
    return tuple(sorted({max(1, int(share * steps)) for share in shares}))


def keyed(stage: str) -> str:
    """What the roles take a stage for: steps that are tried are Algorithm 2's own, and those that are kept are the run's."""
    return backtracking.STAGE if stage in (backtracking.TRIAL, backtracking.WARM) else stage


def kept_stage(trial: Mapping[str, Any]) -> str | None:
    """The stage of the steps that Algorithm 2 goes on from with the teacher as its target, if there is one. trial: of a run's summary."""
    if trial.get("path") is False:
        return backtracking.TRIAL
    return backtracking.WARM if trial.get("warm", {}).get("path") is False else None


def undone_stages(trial: Mapping[str, Any]) -> list[str]:
    """trial: of a run's summary."""
    return [
        stage for stage, said in ((backtracking.TRIAL, trial), (backtracking.WARM, trial.get("warm", {}))) if said.get("path")
    ]
