"""Algorithm 1, Degradation Recording."""

from collections.abc import Collection, Iterator, Sequence

from disback_ray.algorithms.cast import BatchesOf, Cast, Later, Step
from disback_ray.algorithms.noise import Batch

STAGE = "recording"


def record_step(cast: Cast, step: int, batches: Sequence[Batch]) -> tuple[Later, ...]:
    """One step of Eq. (7): θ' learns the samples of the frozen initial generator."""
    fits = [cast.fake_score.fit(cast.generator.propose(batch)) for batch in batches]
    return (*fits, cast.fake_score.commit(step))


def degradation_recording(
    cast: Cast, marks: Sequence[int], *, batches_of: BatchesOf, start: int = 0, skipped: Collection[int] = ()
) -> Iterator[Step]:
    """Algorithm 1 from step `start`: θ' ← θ has happened; node i is kept after marks[i - 1] steps.

    skipped: steps that change no weights. Yields each step once submitted.
    """
    for step in range(start, marks[-1] if marks else 0):
        results: tuple[Later, ...]
        results = (cast.fake_score.skip(step),) if step in skipped else record_step(cast, step, batches_of(STAGE, step))
        if step + 1 in marks:
            results += (cast.fake_score.keep_node(marks.index(step + 1) + 1, step=step + 1),)
        yield Step(STAGE, step, sum(mark <= step + 1 for mark in marks), results)
