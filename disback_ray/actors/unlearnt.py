"""Samples that s_φ has scored and is yet to learn, where the fits trail the scores (`staleness`)."""

from torch import Tensor

from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Sample
from disback_ray.errors import VersionError

PREFIX = "unlearnt."


class Unlearnt:
    """They belong to a checkpoint: the generator that made them has moved on, and nobody could make them again."""

    def __init__(self) -> None:
        self.tensors: dict[str, dict[str, Tensor]] = {}

    def add(self, sample: Sample) -> None:
        condition = {} if sample.condition is None else {"condition": sample.condition}
        self.tensors[_name(sample.batch)] = {"x0": sample.x0} | condition

    def sample(self, batch: Batch) -> Sample:
        """Raises VersionError where it is not there."""
        held = self.tensors.get(_name(batch))
        if held is None:
            raise VersionError(f"fake_score: a sample that it doesn't hold is to be learnt: {batch}")
        return Sample(batch, held["x0"], held.get("condition"), batch.step)

    def drop(self, batch: Batch) -> None:
        self.tensors.pop(_name(batch), None)

    def state(self) -> dict[str, Tensor]:
        """To be saved beside a Learner's."""
        return {f"{PREFIX}{name}.{kind}": tensor for name, held in self.tensors.items() for kind, tensor in held.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what state() gave."""
        self.tensors.clear()
        for key in (key for key in tensors if key.startswith(PREFIX)):
            name, _, kind = key.removeprefix(PREFIX).rpartition(".")
            self.tensors.setdefault(name, {})[kind] = tensors[key]


def _name(batch: Batch) -> str:
    return f"{batch.step}.{batch.first}.{batch.size}"
