"""What a run leaves: its figures, its files, and the one-step generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from disback_ray.actors.generator import draw
from disback_ray.device import best_device
from disback_ray.errors import CheckpointError
from disback_ray.model import wanted
from disback_ray.networks.spec import GeneratorSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.prompting import as_images, encoders_of, hearing, text_network_of
from disback_ray.run_folder import SUMMARY, read_summary
from disback_ray.storage import Folder
from disback_ray.teachers.prompt_encoding import TextEncoders
from disback_ray.teachers.saved import refuse_unfinished
from disback_ray.teachers.saved_generator import SETTINGS, load_generator, spec_of


@dataclass(frozen=True)
class RunResult:
    """A finished run. folder: where it lies; summary: summary.json; trust_modules: whether a module that it names may run its code."""

    folder: Folder
    summary: dict[str, Any]
    trust_modules: bool = False

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures of the teacher, the untrained generator, each node's end, the generator, and real data against itself."""
        return dict(self.summary["metrics"])

    @property
    def digest(self) -> str:
        """SHA-256 of the final weights of generator and fake score."""
        return str(self.summary["digest"])

    @property
    def paths(self) -> dict[str, str]:
        """Where the run's files are: report, summary, metrics, generator, path, samples, config."""
        names = {
            "report": "report.html", "summary": SUMMARY, "metrics": "metrics.parquet", "config": "config.yaml",
            "generator": "generator", "path": "path", "samples": "samples",
        }  # fmt: skip
        return {key: (self.folder / name).uri for key, name in names.items()}

    @property
    def classes(self) -> int:
        """How many classes the generator knows; 0 where it is unconditional. Raises CheckpointError."""
        return int(self._settings()["classes"])

    @property
    def text_network(self) -> TextUNetSpec | None:
        """The U-Net of a generator that takes prompts; else None. Raises CheckpointError."""
        return text_network_of(spec_of(self._settings(), self.folder / "generator"))

    @property
    def drawn(self) -> str:
        return "1 step, unguided" if self.text_network else "1 step"

    @cached_property
    def _encoders(self) -> TextEncoders:
        """Loaded for the first prompts, and kept for more: of thirty thousand a few hundred are asked for at a time."""
        return encoders_of(self.text_network)

    @cached_property
    def _generator(self) -> tuple[GeneratorSpec, nn.Module]:
        """Loaded for the first samples, and kept for more, in the same way."""
        return self.generator()

    def _settings(self) -> dict[str, Any]:
        if not (self.folder / "generator").has(SETTINGS):
            raise CheckpointError(
                f"{self.folder.uri}: has no generator yet: finish the run with the same `disback-ray run` command"
            )
        settings: dict[str, Any] = (self.folder / "generator").read_json(SETTINGS)
        return settings

    def generate(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Tensor | list[int] | None = None,
        first: int = 0,
        prompts: Sequence[str] | None = None,
    ) -> Tensor:
        """n one-step samples: [n, C, H, W] in [-1, 1], or points [n, 2]. labels: [n] class ids; None takes the classes evenly.

        first: the number of the first sample, of a seed's many. prompts: of a text-to-image generator, taken evenly; its classes are
        the numbers of the prompts that it was trained with.
        Raises CheckpointError where the generator is missing, damaged, or a module that isn't trusted, ConfigError where n, the
        labels or the prompts don't fit it.
        """
        spec, network = self._generator
        device, text = best_device(), text_network_of(spec)
        with hearing(network, text, prompts, encoders=lambda: self._encoders) as number:
            asked = wanted(n, spec.shape, labels, spec.classes if number is None else number)
            drawn = draw(network.to(device), dict(network.state_dict()), asked, seed=seed, device=device, first=first)
        return as_images(drawn, text)

    def generator(self) -> tuple[GeneratorSpec, nn.Module]:
        """G(z, class ids) with the averaged weights, in `eval` mode, and its settings: read anew at each call, and the caller's own.

        Raises CheckpointError where it is missing, damaged, or a module that isn't trusted.
        """
        self._settings()
        return load_generator(self.folder / "generator", trust_modules=self.trust_modules)


def load_run(folder: str | Path, *, trust_modules: bool = False) -> RunResult:
    """The run in a folder. trust_modules: its generator may be a module of the user's own, whose code drawing from it then runs.

    Raises CheckpointError where there is none.
    """
    place = Folder.at(folder)
    refuse_unfinished(place, where=folder)
    if not place.has(SUMMARY):
        raise CheckpointError(f"{folder}: no run of disback-ray is there (it has no {SUMMARY})")
    return RunResult(place, read_summary(place), trust_modules)
