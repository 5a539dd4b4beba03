"""The degradation path: where its nodes are recorded, and when backtracking moves from one to the next.

Node 0 is the teacher and node N the most degraded copy. Only this file reverses that order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from disback_ray.errors import ConfigError

PLATEAU_LOOKS, PLATEAU = 3, 0.9
MOST_NODES = 10_000
NEARER_AT_FIRST, NEARER = 0.99, 0.97
"""A trial goes on where its first look, and each later one, finds the samples at so much of their distance before, or nearer."""


@dataclass(frozen=True)
class Switch:
    """From `step` on, the target is `node`."""

    step: int
    node: int


@dataclass(frozen=True)
class Blend:
    """While one target is blended into the next: left, the node of the one before; share, of the next in their mean, in (0, 1)."""

    left: int
    share: float


def node_marks(steps: int, *, every: int | None, at: Sequence[int] | None) -> tuple[int, ...]:
    """After how many recording steps each of the nodes 1 … N is kept (Algorithm 1, 'save intermediate checkpoints').

    `at` names them; `every` takes each multiple. Both miss a last part that doesn't reach a mark: the last node has to be the end.
    Raises ConfigError where the nodes don't fit the steps.
    """
    if at is None and every and steps // every > MOST_NODES:
        raise ConfigError(f"recording.every: a node every {every} of {steps} steps: more than {MOST_NODES:,} nodes: raise every")
    marks = tuple(at) if at is not None else tuple(range(every or steps, steps + 1, every or steps)) if steps else ()
    if list(marks) != sorted(set(marks)) or (marks and marks[0] < 1):
        raise ConfigError(f"recording.at: {list(marks)} must rise from at least 1")
    if (marks[-1] if marks else 0) != steps:
        last, key = marks[-1] if marks else 0, "at" if at is not None else "every"
        raise ConfigError(
            f"recording: the last node is kept after step {last}, not at the end, {steps}: change recording.{key} or recording.steps"
        )
    return marks


def geometric_marks(steps: int, *, nodes: int = 4) -> tuple[int, ...]:
    """Where `path: auto` keeps its nodes: at the end, and after half, a quarter, an eighth … of the steps.

    The copy covers most of its way to the initial generator at once, so that early nodes lie as far apart as late ones.
    """
    return tuple(sorted({max(1, round(steps / 2**halving)) for halving in range(nodes)})) if steps else ()


def switches(nodes: int, steps_per_node: int | Sequence[int], *, total: int, blend: int = 0) -> tuple[Switch, ...]:
    """Algorithm 2's targets in their order: node N-1 first, down to the teacher, node 0, which has all steps that remain.

    steps_per_node: for each of N-1 … 1 in this order; one number serves all. nodes: N. blend: steps that each switch takes.
    Raises ConfigError where they don't fit.
    """
    between = max(nodes - 1, 0)
    lengths = [steps_per_node] * between if isinstance(steps_per_node, int) else list(steps_per_node)
    if len(lengths) != between:
        raise ConfigError(
            f"backtracking.steps_per_node: {len(lengths)} numbers for {between} nodes between the path's end and the teacher"
        )
    if sum(lengths) >= total:
        raise ConfigError(
            f"backtracking.steps: {total} leave none for the teacher after {sum(lengths)} on {between} nodes: "
            "raise steps, or lower steps_per_node"
        )
    starts = [sum(lengths[:index]) for index in range(between + 1)]
    plan = tuple(Switch(step, node) for step, node in zip(starts, range(between, -1, -1), strict=True))
    for here, end in pairwise((*plan[1:], Switch(total, 0))):  # nothing is blended into the first target
        if end.step - here.step < blend:
            whose = f"node {here.node}" if here.node else "the teacher"
            raise ConfigError(
                f"backtracking.blend: {blend} steps into {whose}, which is the target for {end.step - here.step}: lower blend"
            )
    return plan


def plateau_switches(gaps: Sequence[tuple[int, float]], *, nodes: int, most: int, lag: int, blend: int = 0) -> tuple[Switch, ...]:
    """Algorithm 2's targets so far, where each node is left once the score difference to it no longer falls.

    gaps: (steps done, rms of σ(s_φ − s_target) on held noise against the target of then), in their order. A node is left when the last
    of three looks at it is not a tenth below the first of them, or `most` steps after it began. A look decides for `lag` steps later,
    so that nobody waits for it. nodes: N. blend: steps that a switch takes; looks of those don't count.
    """
    plan = [Switch(0, max(nodes - 1, 0))]
    seen: list[float] = []
    for done, gap in gaps:
        here = plan[-1]
        if here.node == 0 or done <= here.step + (blend if len(plan) > 1 else 0):
            continue  # nowhere to go; or looked at before the node that it has led to
        seen.append(gap)
        still = len(seen) >= PLATEAU_LOOKS and seen[-1] > PLATEAU * seen[-PLATEAU_LOOKS]
        if still or done - here.step >= most:
            plan.append(Switch(done + lag, here.node - 1))
            seen.clear()
    return tuple(plan)


def leads_somewhere(apart: Sequence[float], *, gain: float, ended: bool) -> bool:
    """Whether steps towards the teacher bring the samples nearer to its own. apart: their distances at first, and at each look since.

    A look has to find them at `gain` of what it was, or, until the steps have ended, nearer than the one before. NaN leads nowhere.
    """
    nearer = NEARER if len(apart) > 2 else NEARER_AT_FIRST
    return apart[-1] <= gain * apart[0] or (not ended and apart[-1] <= nearer * apart[-2])


def comes_nearer(apart: Sequence[float]) -> bool:
    """The same without a goal: the samples have to be 1 % nearer at the first look, and at each later one 1 % more."""
    return apart[-1] <= (1 - (1 - NEARER_AT_FIRST) * (len(apart) - 1)) * apart[0]


def target_at(step: int, plan: Sequence[Switch]) -> int:
    """The node that is the target at a step."""
    return [switch.node for switch in plan if switch.step <= step][-1]


def blend_at(step: int, plan: Sequence[Switch], *, steps: int) -> Blend | None:
    """For so many steps from a switch on, how the target before it is blended into its own; None in all others.

    The share rises by the same amount each step, from 0 in the last step before the switch to 1 in the first after the blend.
    """
    reached = [switch for switch in plan if switch.step <= step]
    done = step - reached[-1].step + 1
    return Blend(reached[-2].node, done / (steps + 1)) if len(reached) > 1 and done <= steps else None


def next_switch(step: int, plan: Sequence[Switch], *, within: int) -> Switch | None:
    """The first switch after a step, where it is not more than so many steps away."""
    return next((switch for switch in plan if 0 < switch.step - step <= within), None)
