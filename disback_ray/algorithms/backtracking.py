"""Algorithm 2, Distribution Backtracking."""

from collections.abc import Iterator, Sequence

from disback_ray.algorithms.cast import BatchesOf, Cast, Later, Step, Target
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.path import Switch, target_at

STAGE = "backtracking"


def backtrack_step(
    cast: Cast, step: int, batches: Sequence[Batch], *, target: Target, node: int, fake_updates: int
) -> tuple[Later, ...]:
    """One step of both players: the generator by Eq. (8) against s_θ'_node, then s_φ by Eq. (5) on the same samples.

    fake_updates: how many updates s_φ makes for one of the generator's, each on all of the samples with fresh t and ε.
    """
    samples = [cast.generator.propose(batch) for batch in batches]
    wanted = [target.score(sample) for sample in samples]
    current = [cast.fake_score.score(sample) for sample in samples]
    trios = zip(samples, current, wanted, strict=True)
    fields = [cast.fake_score.difference(s, c, w, node=node) for s, c, w in trios]  # Eq. (8)
    results = [cast.generator.descend(field) for field in fields]
    results.append(cast.generator.commit(step))
    for update in range(fake_updates):
        results += [cast.fake_score.fit(sample, update=update) for sample in samples]  # Eq. (5)
        results.append(cast.fake_score.commit(step, update=update))
    return tuple(results)


def distribution_backtracking(
    cast: Cast, plan: Sequence[Switch], *, steps: int, batches_of: BatchesOf, fake_updates: int = 1, start: int = 0
) -> Iterator[Step]:
    """Algorithm 2 from step `start`: φ ← θ'_N has happened; walks back along the path to the teacher.

    Yields each step once submitted.
    """
    loaded = None
    for step in range(start, steps):
        node = target_at(step, plan)
        results: tuple[Later, ...] = ()
        if node not in (0, loaded):
            results = (cast.path_node.load(node),)
            loaded = node
        target = cast.path_node if node else cast.teacher
        batches = batches_of(STAGE, step)
        results += backtrack_step(cast, step, batches, target=target, node=node, fake_updates=fake_updates)
        yield Step(STAGE, step, node, results)
