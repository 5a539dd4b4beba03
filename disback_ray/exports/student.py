"""What an export is made of: a run's generator, with where it came from."""

from dataclasses import dataclass

from torch import Tensor, nn

from disback_ray.networks.spec import GeneratorSpec
from disback_ray.result import RunResult


@dataclass(frozen=True)
class Student:
    """A generator with the averaged weights, in `eval` mode on the CPU. recipe, seed, digest: of its run."""

    spec: GeneratorSpec
    network: nn.Module
    recipe: str
    seed: int
    digest: str

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """Those under a prefix of G's own names, without it; all of G's are."""
        found = self.network.state_dict()
        assert all(name.startswith(prefix) for name in found), prefix
        return {name.removeprefix(prefix): tensor.contiguous() for name, tensor in found.items()}


def student_of(run: RunResult) -> Student:
    """Raises CheckpointError where the run has no generator, or a damaged one."""
    spec, network = run.generator()
    summary = run.summary
    return Student(spec, network, str(summary["recipe"]), int(summary["seed"]), str(summary["digest"]))
