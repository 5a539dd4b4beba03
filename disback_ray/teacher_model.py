"""A teacher that samples are drawn from: its owners' file or folder, a model of the Hugging Face Hub, or what a run made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from disback_ray.algorithms.sampling import draw_in_chunks
from disback_ray.device import best_device
from disback_ray.errors import ConfigError
from disback_ray.model import wanted
from disback_ray.networks.imported import Scalings
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.prompting import as_images, encoders_of, hearing, text_network_of
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
from disback_ray.teachers.saved import load_denoiser, load_spec, refuse_modules
from disback_ray.teachers.text_teacher import read_text_teacher

DEFAULT_STEPS: dict[Sampler, int] = {"heun": 18, "ddim": 50}
NAMES: dict[Sampler, str] = {"heun": "Heun's method", "ddim": "DDIM"}


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
            raise ConfigError(
                "this teacher draws what a prompt says: give one, with `sample --prompt`, or `evaluate` or `statistics --prompts FILE`"
            )
        denoiser = self.denoiser.to(device)

        def sample(z: Tensor, condition: Tensor | None) -> Tensor:
            return draw_from_teacher(denoiser, z, condition, steps=self.steps, sampler=self.sampler, guidance=self.guidance)

        with hearing(denoiser, network, prompts, encoders=lambda: self._encoders) as number:
            asked = wanted(n, self.spec.shape, labels, self.classes if number is None else number)
            most = most_at_once(denoiser)
            drawn = draw_in_chunks(sample, asked, seed=seed, device=device, first=first, most=most)
        return as_images(drawn, network)


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
