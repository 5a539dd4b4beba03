"""What a run leaves: its figures, its files, and the one-step generator."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from disback_ray.actors.generator import draw
from disback_ray.algorithms.records import Drawn
from disback_ray.algorithms.sampling import classes_evenly, draw_in_chunks
from disback_ray.device import best_device
from disback_ray.errors import CheckpointError, ConfigError, NonFiniteError
from disback_ray.networks.imported import Scalings
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.pictures import image_grid, snapshots
from disback_ray.prompting import as_images, encoders_of, hearing, text_network_of
from disback_ray.run_folder import SUMMARY, read_summary
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import Expected, format_of, read_file, read_teacher, read_teacher_folder
from disback_ray.teachers.drawing import (
    Sampler,
    draw_from_teacher,
    draws_in_one_step,
    most_at_once,
    most_steps,
    sampler_of,
)
from disback_ray.teachers.guidance import NONE, USUAL
from disback_ray.teachers.hub import diffusers_folder, is_diffusers
from disback_ray.teachers.pipeline import is_pipeline
from disback_ray.teachers.prompt_encoding import TextEncoders
from disback_ray.teachers.saved import SETTINGS as SETTINGS_OF_DENOISER
from disback_ray.teachers.saved import load_denoiser, load_spec, refuse_modules, refuse_unfinished
from disback_ray.teachers.saved_generator import SETTINGS, load_generator, spec_of
from disback_ray.teachers.text_teacher import read_text_teacher

DEFAULT_STEPS: dict[Sampler, int] = {"heun": 18, "ddim": 50}
NAMES: dict[Sampler, str] = {"heun": "Heun's method", "ddim": "DDIM"}
MOST = 2**24
"""Samples of one call; a recipe's measurements have the same limit."""


class Model(Protocol):
    """What samples can be drawn from: a run's generator, or a teacher. classes: 0 where it is unconditional.

    text_network: of a model that takes prompts, whose classes are the numbers of those that it was trained with; else None.
    drawn: in what its samples are drawn, in words: steps of a sampler, and guidance.
    """

    @property
    def classes(self) -> int: ...

    @property
    def text_network(self) -> TextUNetSpec | None: ...

    @property
    def drawn(self) -> str: ...

    def generate(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Tensor | list[int] | None = None,
        first: int = 0,
        prompts: Sequence[str] | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class TeacherModel:
    """A teacher to look at. steps: of the sampler; a consistency model draws in one. guidance: to its prompts."""

    denoiser: nn.Module
    spec: DenoiserSpec
    steps: int
    sampler: Sampler
    guidance: float = NONE

    @property
    def classes(self) -> int:
        return self.spec.classes

    @property
    def text_network(self) -> TextUNetSpec | None:
        return text_network_of(self.spec)

    @property
    def drawn(self) -> str:
        steps = 1 if draws_in_one_step(self.denoiser) else self.steps
        by = "" if draws_in_one_step(self.denoiser) else f" of {NAMES[self.sampler]}"
        guidance = f", guidance {self.guidance:g}" if self.text_network else ""
        return f"{steps} step{'s' if steps > 1 else ''}{by}{guidance}"

    @cached_property
    def _encoders(self) -> TextEncoders:
        """Loaded for the first prompts, and kept for more: of thirty thousand a few hundred are asked for at a time."""
        return encoders_of(self.text_network)

    def generate(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Tensor | list[int] | None = None,
        first: int = 0,
        prompts: Sequence[str] | None = None,
    ) -> Tensor:
        """n samples: [n, C, H, W] in [-1, 1], or points [n, 2]; those that a run's pictures of the teacher show for the same seed.

        labels: [n] class ids; None takes the classes evenly. first: the number of the first sample, of a seed's many.
        prompts: of a text-to-image teacher, taken evenly, in place of those that it was told.
        Raises ConfigError where n, the labels or the prompts don't fit.
        """
        device = best_device()
        network = self.text_network
        if network is not None and prompts is None and not self.classes:
            raise ConfigError("--prompt: this teacher draws what a prompt says: give one")
        denoiser = self.denoiser.to(device)

        def sample(z: Tensor, condition: Tensor | None) -> Tensor:
            return draw_from_teacher(denoiser, z, condition, steps=self.steps, sampler=self.sampler, guidance=self.guidance)

        with hearing(denoiser, network, prompts, encoders=lambda: self._encoders) as number:
            wanted = _wanted(n, self.spec.shape, labels, self.classes if number is None else number)
            most = most_at_once(denoiser)
            drawn = draw_in_chunks(sample, wanted, seed=seed, device=device, first=first, most=most)
        return as_images(drawn, network)


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
            wanted = _wanted(n, spec.shape, labels, spec.classes if number is None else number)
            drawn = draw(network.to(device), dict(network.state_dict()), wanted, seed=seed, device=device, first=first)
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


def load_teacher(
    where: str | Path,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    guidance: float | None = None,
    scalings: Scalings | None = None,
    trust_modules: bool = False,
) -> TeacherModel:
    """A teacher from its owners' file or folder, by its id on the Hugging Face Hub, or from the folder that a run made of it.

    steps, sampler: of a diffusion model; by default what its owners draw with, in 18 steps of Heun's method or 50 of DDIM.
    guidance: of a text-to-image teacher to its prompts, classifier-free; 1 for none, by default 8.
    scalings: of openai's .pt, which doesn't tell: 'boundary' (the default) of a consistency model, 'standard' of a diffusion model.
    trust_modules: it may be a module of the user's own, whose code is then run.
    Raises CheckpointError where there is none, ConfigError where steps, sampler, guidance or scalings don't fit it.
    """
    denoiser, spec = _teacher(str(where), scalings=scalings, trust_modules=trust_modules)
    if draws_in_one_step(denoiser) and (steps not in (None, 1) or sampler is not None):
        given = f"--sampler {sampler}" if sampler else f"--steps {steps}"
        raise ConfigError(
            f"{given}: {where} is a consistency model, and draws in one step; a diffusion model's .pt: --scalings standard"
        )
    chosen = sampler or sampler_of(denoiser)
    most = most_steps(denoiser, chosen)
    if steps is not None and not 1 <= steps <= most:
        raise ConfigError(f"--steps {steps}: {'at least one' if steps < 1 else f'{where} knows {most:.0f} times of noise'}")
    return TeacherModel(denoiser, spec, steps or int(min(DEFAULT_STEPS[chosen], most)), chosen, _guidance(guidance, spec, where))


def _guidance(asked: float | None, spec: DenoiserSpec, where: str | Path) -> float:
    """Raises ConfigError."""
    takes_prompts = text_network_of(spec) is not None
    if asked is None:
        return USUAL if takes_prompts else NONE
    if not takes_prompts:
        raise ConfigError(f"--guidance {asked:g}: {where} takes no prompts that it could be guided to")
    if not NONE <= asked < math.inf:
        raise ConfigError(f"--guidance {asked:g}: at least 1, which is none")
    return asked


def _teacher(where: str, *, scalings: Scalings | None, trust_modules: bool) -> tuple[nn.Module, DenoiserSpec]:
    folder, name = Folder.of_file(where)
    data = read_file(where) if folder.size(name) is not None else None
    format = format_of(data, name=where) if data is not None else None
    if scalings is not None and format != "consistency":
        raise ConfigError(f"--scalings {scalings}: only openai's .pt files don't tell theirs; leave it out for {where}")
    if data is not None and format is not None:
        found = read_teacher(data, name=where, format=format, scalings=scalings or "boundary", expected=Expected())
    elif is_diffusers(where):
        with diffusers_folder(where) as path:
            if is_pipeline(path):
                if "://" in where:
                    raise ConfigError(f"{where}: copy the pipeline to this machine")
                spec, denoiser, _ = read_text_teacher(path, name=where)
                return denoiser, spec
            found = read_teacher_folder(path, name=where, expected=Expected())
    else:
        spec = load_spec(Folder.at(where))
        refuse_modules(spec, where=where, trust=trust_modules)
        return load_denoiser(Folder.at(where)), spec
    return found.denoiser, found.spec


def is_teacher(where: str | Path) -> bool:
    """Whether `load_model` takes it for a teacher's file, folder or id, rather than for a run."""
    folder, name = Folder.of_file(where)
    return folder.size(name) is not None or Folder.at(where).has(SETTINGS_OF_DENOISER) or is_diffusers(str(where))


def load_model(
    where: str | Path,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    guidance: float | None = None,
    scalings: Scalings | None = None,
    trust_modules: bool = False,
) -> Model:
    """A teacher, or a run. Raises what load_teacher and load_run raise, and ConfigError for what is only a teacher's where it is a run."""
    if is_teacher(where):
        return load_teacher(
            where, steps=steps, sampler=sampler, guidance=guidance, scalings=scalings, trust_modules=trust_modules
        )
    for name, value in (("steps", steps), ("sampler", sampler), ("guidance", guidance), ("scalings", scalings)):
        if value is not None:
            raise ConfigError(f"--{name} {value}: a run's generator draws in one step, unguided; {name} is a teacher's")
    return load_run(where, trust_modules=trust_modules)


def _wanted(n: int, shape: tuple[int, ...], labels: Tensor | list[int] | None, classes: int) -> Drawn:
    """Raises ConfigError."""
    if n < 1:
        raise ConfigError(f"n: {n}: ask for at least one sample")
    if n > MOST:
        raise ConfigError(f"n: {n}: at most {MOST:,} at once: draw the rest with another seed")
    return Drawn(torch.empty(1).expand(n, *shape), _classes(n, labels, classes))  # a shape, and no memory


def _classes(n: int, labels: Tensor | list[int] | None, classes: int) -> Tensor | None:
    if not classes:
        if labels is not None:
            raise ConfigError("labels: this model is unconditional and takes none")
        return None
    chosen = classes_evenly(n, classes) if labels is None else torch.as_tensor(labels, dtype=torch.int64)
    if chosen.shape != (n,) or int(chosen.min()) < 0 or int(chosen.max()) >= classes:
        raise ConfigError(f"labels: expected {n} class ids of 0 … {classes - 1}")
    return chosen


def save_samples(model: Model, n: int, *, seed: int, out: str | Path, prompts: Sequence[str] | None = None) -> None:
    """Writes samples as a picture (.png) or as arrays (.npz), to a file or a URI. Raises ConfigError, CheckpointError, NonFiniteError."""
    folder, name = Folder.of_file(out)
    x = model.generate(n, seed=seed, prompts=prompts)
    if not torch.isfinite(x).all():
        raise NonFiniteError("the samples have NaN or Inf: the model's weights have too, or it diverged")
    classes = model.classes if prompts is None else len(prompts)
    data = io.BytesIO()
    if name.endswith(".png"):
        data.write(image_grid(x, columns=max(1, round(n**0.5))) if x.ndim == 4 else snapshots([("", x)], x[:0]))
    else:
        if classes:
            np.savez(data, x=x.numpy(), labels=classes_evenly(n, classes).numpy(), drawn=np.array(seed))
        else:
            np.savez(data, x=x.numpy(), drawn=np.array(seed))
    try:
        folder.write(name, data.getvalue())
    except CheckpointError as error:
        raise ConfigError(f"--out {out}: {error}") from None
