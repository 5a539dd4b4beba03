"""Algorithm 2, Distribution Backtracking."""

from collections import deque
from collections.abc import Collection, Iterator, Sequence

from disback_ray.algorithms.cast import BatchesOf, Cast, Later, Step, Target
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.path import Blend, Switch, blend_at, next_switch, target_at

STAGE, TRIAL, WARM = "backtracking", "trial", "warm"
"""The others are what Algorithm 2's first steps are called where they are tried with the teacher as the target (`path: auto`): whether a
path is wanted, and whether its nodes are once s_φ begins at its end. For the roles, and in the keys of all noise, they are its own."""

PREFETCH_STEPS = 10
"""So many steps before its switch a node begins to be read, so that the switch only copies it."""

Results = tuple[Later, ...]


def generator_step(
    cast: Cast, step: int, batches: Sequence[Batch], *, target: Target, node: int, blend: Blend | None = None
) -> tuple[list[Later], Results]:
    """One step of the generator by Eq. (8) against s_θ'_node → its samples, and what is to be waited for.

    blend: the node before scores as well, and the target's score is a mean of the two. The difference of a micro-batch is asked for
    before the next one's score: a role works through its calls in their order, and the generator can begin to descend while the other
    scores are taken. Over Ray each field is descended in a call of its own, as soon as it is there, and the last ones commit.
    """
    samples = [cast.generator.propose(batch) for batch in batches]
    wanted = [target.score(sample) for sample in samples]
    before = [cast.path_node.score(sample, node=blend.left) if blend else None for sample in samples]
    fields = [
        cast.fake_score.difference(cast.fake_score.score(sample), score, left, node=node, blend=blend)
        for sample, score, left in zip(samples, wanted, before, strict=True)
    ]
    return samples, (cast.generator.descend_all(*fields, step=step),)


def fake_score_step(cast: Cast, step: int, samples: Sequence[Later], *, updates: int) -> Results:
    """s_φ learns a step's samples by Eq. (5), `updates` times, each on all of them with fresh t and ε.

    In one call each time: it has scored them all by then, so that none is waited for, and a call over Ray costs the driver a millisecond.
    """
    return tuple(cast.fake_score.learn(*samples, step=step, update=update) for update in range(updates))


def distribution_backtracking(
    cast: Cast,
    plan: Sequence[Switch],
    *,
    steps: int,
    batches_of: BatchesOf,
    fake_updates: int = 1,
    staleness: int = 0,
    blend: int = 0,
    start: int = 0,
    stage: str = STAGE,
    skipped: Collection[int] = (),
) -> Iterator[Step]:
    """Algorithm 2 from step `start`: φ ← θ'_N has happened; walks back along the path to the teacher.

    staleness: by how many steps s_φ learns later than it scores, so that step k hears the φ of step k - staleness; all is learnt
    with the last step. blend: for so many steps from a switch on, the target before it is blended into its own. plan: may grow while
    the steps are played. stage: what the steps are called. skipped: steps that change no weights, of neither role.
    Yields each step once submitted.
    """
    held: tuple[int, ...] = ()
    fetched = None
    unlearnt: deque[tuple[int, list[Later]]] = deque()
    if start < steps:
        for late in range(max(start - staleness, 0), start):
            batches = () if late in skipped else batches_of(STAGE, late)
            unlearnt.append((late, [cast.fake_score.unlearnt(batch) for batch in batches]))
    for step in range(start, steps):
        node, mix = target_at(step, plan), blend_at(step, plan, steps=blend)
        results: Results = ()
        needed = tuple(each for each in (node, mix.left if mix else 0) if each)
        if not set(needed) <= set(held):
            results = (cast.path_node.load(*needed),)
            held = needed
        target = cast.path_node if node else cast.teacher
        if step in skipped:
            samples, descended = list[Later](), (cast.generator.skip(step),)
        else:
            samples, descended = generator_step(cast, step, batches_of(STAGE, step), target=target, node=node, blend=mix)
        results += descended
        if (coming := next_switch(step, plan, within=PREFETCH_STEPS)) and coming.node not in (0, fetched):
            results += (cast.path_node.prefetch(coming.node),)
            fetched = coming.node
        unlearnt.append((step, samples))
        while len(unlearnt) > (staleness if step + 1 < steps else 0):
            late, samples = unlearnt.popleft()
            if late in skipped:
                results += (cast.fake_score.skip(late),)
            else:
                results += fake_score_step(cast, late, samples, updates=fake_updates)
        yield Step(stage, step, node, results)
