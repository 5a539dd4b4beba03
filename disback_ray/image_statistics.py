"""Statistics of images, or of what a model draws: where `disback-ray statistics` and `evaluate` take them from."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disback_ray.any_model import load_model
from disback_ray.data.digits import load_digits
from disback_ray.data.image_files import ImageFiles
from disback_ray.data.sources import PointsData
from disback_ray.errors import ConfigError
from disback_ray.evaluation.extractors import as_pixels
from disback_ray.evaluation.kinds import Origin, require_same_resolution
from disback_ray.evaluation.moments import require
from disback_ray.evaluation.statistics import (
    KEPT_FEATURES,
    Extracts,
    Statistics,
    save_statistics,
    tally,
)
from disback_ray.model import Model
from disback_ray.model_images import ModelImages
from disback_ray.prompted_images import PromptedImages
from disback_ray.run_folder import SUMMARY, is_run, recipe_of
from disback_ray.storage import Folder
from disback_ray.teachers.hub import is_diffusers
from disback_ray.teachers.saved import SETTINGS as DENOISER

MANY = 50_000  # samples of a model: what published distances are taken of
PART = 64
MODELS = (".pkl", ".pt", ".pth", ".safetensors")
ARCHIVES = (".zip", ".parquet", ".npz")
DIGITS = "digits"  # in place of a folder: the data set in the box
Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """How to take images. n: None for all of a folder's, 50,000 of a model's.

    steps: of a diffusion teacher's sampler; guidance: of a text-to-image teacher to its prompts. None: as `sample` draws it.
    trust_modules: a run or a teacher may name a module of the user's own, whose code then runs.
    """

    n: int | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    skip_corrupt: bool = False
    trust_modules: bool = False

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 2:
            raise ConfigError(f"--n {self.n}: at least two samples")


def statistics_of(
    where: str, extractor: Extracts, source: Source,
    *, keep: int = KEPT_FEATURES, say: Say = print, reference: Origin | None = None, model: Model | None = None,
) -> Statistics:  # fmt: skip
    """Statistics of a folder, zip, parquet or npz of images, of `digits`, or of a model's samples. reference: what they are to meet.

    model: the one that `where` names, if it is loaded already.

    Raises CheckpointError where there is nothing of the kind or an image is corrupt, ConfigError where there are too few, or they
    don't fit the extractor, NonFiniteError for NaN or Inf.
    """
    if (model := model or model_of(where, source)) is not None:
        n = source.n or MANY
        if extractor.kind.dimensions:
            require(n, extractor.kind.dimensions)
        images = ModelImages(model, name=where, seed=source.seed)
        found = tally(fitting(images.parts(n), where, reference), extractor, keep=keep)
        return found.statistics(f"{where}, seed {source.seed}", images.sha256, drawn=model.drawn, reference=reference)
    if where == DIGITS and not Path(DIGITS).exists():
        return _digits(extractor, source.n, keep, reference)
    files = ImageFiles(where, skip_corrupt=source.skip_corrupt)
    found = tally(files.parts(PART, most=source.n), extractor, keep=keep, names=lambda: files.given)
    if files.note():
        say(files.note())
    if source.n is not None and found.moments.count < source.n:
        raise ConfigError(f"--n {source.n}: {where} holds {found.moments.count} images")
    return found.statistics(files.name, files.sha256, skipped=len(files.skipped), odd=files.odd, reference=reference)


def statistics_of_prompts(
    images: PromptedImages, prompts: str, extractor: Extracts, *, keep: int = KEPT_FEATURES, reference: Origin | None = None
) -> Statistics:
    """Statistics of one image for each prompt. prompts: the file that they are of. Raises as `statistics_of`."""
    if extractor.kind.dimensions:
        require(len(images.texts), extractor.kind.dimensions)
    found = tally(fitting(images.parts(), images.name, reference), extractor, keep=keep)
    name = f"{images.name}, one image for each prompt of {prompts}, seed {images.seed}"
    return found.statistics(name, images.sha256, drawn=images.model.drawn, reference=reference)


def make_statistics(
    where: str, out: str, extractor: Extracts, source: Source,
    *, keep: int = KEPT_FEATURES, say: Say = print, prompts: str | None = None,
) -> Statistics:  # fmt: skip
    """`statistics_of` as a file, or, with prompts, `statistics_of_prompts`.

    Raises what they raise, and ConfigError where `out` is no .npz, or prompts are for what takes none.
    """
    if not out.endswith(".npz"):
        raise ConfigError(f"--out {out}: name an .npz file")
    if prompts is None:
        found = statistics_of(where, extractor, source, keep=keep, say=say)
    else:
        images = PromptedImages(
            drawing_model(where, source, prompts), prompts, n=source.n, seed=source.seed, name=where, clip=None
        )
        found = statistics_of_prompts(images, prompts, extractor, keep=keep)
    folder, name = Folder.of_file(out)
    save_statistics(folder, name, found)
    return found


def is_statistics(where: str) -> bool:
    """Whether it is a file of statistics, rather than of images."""
    if not where.endswith(".npz") or where.startswith(("http://", "https://")):
        return where.endswith(".npz")
    folder, name = Folder.of_file(where)
    if folder.size(name) is None:
        return False
    try:
        with np.load(io.BytesIO(folder.read(name)), allow_pickle=False) as arrays:
            return "mu" in arrays.files
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return True  # damaged: reading it says so


def model_of(where: str, source: Source) -> Model | None:
    """The model that `where` names; None where it names images. Raises what `load_model` raises."""
    if where.endswith(ARCHIVES) or (where == DIGITS and not Path(DIGITS).exists()):
        return None
    folder = Folder.at(where)
    if where.endswith(MODELS) or folder.has(SUMMARY) or folder.has(DENOISER) or is_diffusers(where):
        return load_model(where, steps=source.steps, guidance=source.guidance, trust_modules=source.trust_modules)
    return None


def drawing_model(where: str, source: Source, prompts: str) -> Model:
    """The model that is to draw what prompts say. Raises ConfigError where `where` names images."""
    if (model := model_of(where, source)) is None:
        raise ConfigError(f"--prompts {prompts}: {where} is no model that could draw them")
    return model


def refuse_points(where: str) -> None:
    """Raises ConfigError for a run on points, which has no images that an extractor could look at."""
    folder = Folder.at(where)
    if folder.has(SUMMARY) and is_run(folder) and isinstance(recipe_of(folder).data, PointsData):
        raise ConfigError(
            f"{where}: a run on points: it has no images; `disback-ray evaluate {where}`, without a reference, measures it"
        )


def _digits(extractor: Extracts, n: int | None, keep: int, reference: Origin | None) -> Statistics:
    images = as_pixels(load_digits().images)[:n]
    found = tally((images[i : i + 256] for i in range(0, len(images), 256)), extractor, keep=keep)
    sha256 = hashlib.sha256(b"".join(i.tobytes() for i in images)).hexdigest()
    return found.statistics("scikit-learn's digits", sha256, reference=reference)


def fitting(parts: Iterable[list[np.ndarray]], name: str, reference: Origin | None) -> Iterator[list[np.ndarray]]:
    """A model's images. Raises ConfigError where the first ones are of another resolution than the reference, before the rest is drawn."""
    for images in parts:
        if reference is not None:
            require_same_resolution(Origin(name, "", None, images[0].shape[:2]), reference)
        yield images
