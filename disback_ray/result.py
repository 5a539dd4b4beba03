"""What a run leaves: its figures, its files, and the one-step generator."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disback_ray.actors.generator import SETTINGS, draw
from disback_ray.algorithms.records import Drawn
from disback_ray.device import best_device
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.networks.spec import GeneratorSpec
from disback_ray.pictures import image_grid, snapshots
from disback_ray.run_folder import SUMMARY
from disback_ray.storage import Folder
from disback_ray.teachers.saved import WEIGHTS, load_strictly


@dataclass(frozen=True)
class RunResult:
    """A finished run. folder: where it lies; summary: summary.json."""

    folder: Folder
    summary: dict[str, Any]

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
        return {key: f"{self.folder.uri}/{name}" for key, name in names.items()}

    @property
    def classes(self) -> int:
        """How many classes the generator knows; 0 where it is unconditional. Raises CheckpointError."""
        return int(self._settings()["classes"])

    def _settings(self) -> dict[str, Any]:
        if not (self.folder / "generator").has(SETTINGS):
            raise CheckpointError(
                f"{self.folder.uri}: has no generator yet: finish the run with the same `disback-ray run` command"
            )
        settings: dict[str, Any] = (self.folder / "generator").read_json(SETTINGS)
        return settings

    def generate(self, n: int, *, seed: int = 0, labels: Tensor | list[int] | None = None) -> Tensor:
        """n one-step samples: [n, C, H, W] in [-1, 1], or points [n, 2]. labels: [n] class ids; None takes the classes in turn.

        Raises CheckpointError where the generator is missing or damaged, ConfigError where n or the labels don't fit it.
        """
        settings, folder = self._settings(), self.folder / "generator"
        spec = GeneratorSpec.from_json(settings)
        if n < 1:
            raise ConfigError(f"n: {n}: ask for at least one sample")
        network = spec.build()
        load_strictly(network, folder.read_tensors(WEIGHTS, sha256=settings["weights"]["sha256"]), where=folder.uri)
        device = best_device()
        wanted = Drawn(torch.empty(n, *spec.shape), _classes(n, labels, spec.classes))
        return draw(network.to(device), dict(network.state_dict()), wanted, seed=seed, device=device).cpu()


def load_run(folder: str | Path) -> RunResult:
    """The run in a folder. Raises CheckpointError where there is none."""
    place = Folder.at(folder)
    if not place.has(SUMMARY):
        raise CheckpointError(f"{folder}: no run of disback-ray is there (it has no {SUMMARY})")
    return RunResult(place, place.read_json(SUMMARY))


def _classes(n: int, labels: Tensor | list[int] | None, classes: int) -> Tensor | None:
    if not classes:
        if labels is not None:
            raise ConfigError("labels: this generator is unconditional and takes none")
        return None
    chosen = torch.arange(n) % classes if labels is None else torch.as_tensor(labels, dtype=torch.int64)
    if chosen.shape != (n,) or int(chosen.min()) < 0 or int(chosen.max()) >= classes:
        raise ConfigError(f"labels: expected {n} class ids of 0 … {classes - 1}")
    return chosen


def save_samples(run: RunResult, n: int, *, seed: int, out: Path) -> None:
    """Writes one-step samples as a picture (.png) or as arrays (.npz). Raises ConfigError, CheckpointError."""
    x = run.generate(n, seed=seed)
    data = io.BytesIO()
    if out.suffix == ".png":
        data.write(image_grid(x, columns=max(1, round(n**0.5))) if x.ndim == 4 else snapshots([("", x)], x[:0]))
    else:
        classes = run.classes
        if classes:
            np.savez(data, x=x.numpy(), labels=np.arange(n) % classes)
        else:
            np.savez(data, x=x.numpy())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = out.with_name(f"{out.name}.partial")
        aside.write_bytes(data.getvalue())
        aside.replace(out)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from None
