"""`disback-ray evaluate` and `statistics`: figures of a model or of images, against a reference, with what they are figures of."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from disback_ray.algorithms.records import Drawn
from disback_ray.data.digits import load_digits
from disback_ray.data.image_files import ImageFiles
from disback_ray.data.sources import PointsData
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluation.clip_score import ClipScore
from disback_ray.evaluation.extractors import ExtractorSpec, as_pixels
from disback_ray.evaluation.image_figures import ImageFigures, measure
from disback_ray.evaluation.kinds import Origin, require_same_kind, require_same_resolution
from disback_ray.evaluation.moments import require
from disback_ray.evaluation.point_measures import PointMeasures
from disback_ray.evaluation.statistics import (
    KEPT_FEATURES,
    Extracts,
    Statistics,
    assume_kind,
    read_statistics,
    save_statistics,
    tally,
)
from disback_ray.fetching import fetch
from disback_ray.model_images import ModelImages
from disback_ray.prompted_images import PromptedImages
from disback_ray.result import Model, load_model, load_run
from disback_ray.run_folder import CONFIG, SUMMARY, recipe_of
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
    *, keep: int = KEPT_FEATURES, say: Say = print, reference: Origin | None = None,
) -> Statistics:  # fmt: skip
    """Statistics of a folder, zip, parquet or npz of images, of `digits`, or of a model's samples. reference: what they are to meet.

    Raises CheckpointError where there is nothing of the kind or an image is corrupt, ConfigError where there are too few, or they
    don't fit the extractor, NonFiniteError for NaN or Inf.
    """
    if (model := _model(where, source)) is not None:
        n = source.n or MANY
        if extractor.kind.dimensions:
            require(n, extractor.kind.dimensions)
        images = ModelImages(model, name=where, seed=source.seed)
        found = tally(_fitting(images.parts(n), where, reference), extractor, keep=keep)
        return found.statistics(f"{where}, seed {source.seed}", images.sha256, drawn=model.drawn, reference=reference)
    if where == DIGITS and not Path(DIGITS).exists():
        return _digits(extractor, source.n, keep, reference)
    files = ImageFiles(where, skip_corrupt=source.skip_corrupt)
    found = tally(files.parts(PART, most=source.n), extractor, keep=keep)
    if files.note():
        say(files.note())
    if source.n is not None and found.moments.count < source.n:
        raise ConfigError(f"--n {source.n}: {where} holds {found.moments.count} images")
    return found.statistics(files.name, files.sha256, skipped=len(files.skipped), odd=files.odd, reference=reference)


def make_statistics(
    where: str, out: str, extractor: Extracts, source: Source, *, keep: int = KEPT_FEATURES, say: Say = print
) -> Statistics:
    """`statistics_of` as a file. Raises what that raises, and ConfigError where `out` is no .npz."""
    if not out.endswith(".npz"):
        raise ConfigError(f"--out {out}: name an .npz file")
    found = statistics_of(where, extractor, source, keep=keep, say=say)
    folder, name = Folder.of_file(out)
    save_statistics(folder, name, found)
    return found


def evaluate(
    where: str, reference: str, spec: ExtractorSpec,
    *, source: Source, cache: Folder | None = None, reference_sha256: str | None = None, assumed: bool = False, blocks: int = 1,
    say: Say = print,
) -> ImageFigures:  # fmt: skip
    """Figures of what `where` names against a reference: images as for `statistics_of`, or a statistics file or address.

    assumed: take the reference's kind for the extractor's where its file doesn't tell it. blocks: of samples, of which the one at
    the least distance counts: a model's have the seeds from source.seed on, a folder's follow each other.
    Raises ConfigError where kinds or resolutions differ, and what `statistics_of` raises.
    """
    if blocks < 1:
        raise ConfigError(f"--blocks {blocks}: at least one")
    extractor = spec.build(cache=cache)
    known = _reference(reference, extractor, reference_sha256, cache, source, say)
    if is_statistics(where):
        if blocks > 1:
            raise ConfigError(f"--blocks {blocks}: {where} is statistics already; blocks are for samples")
        return measure(
            [_told(read_statistics(fetch(where, key="samples")), where)], _agreed(known, None, assumed), seed=source.seed
        )
    if known.kind is not None:  # now, and not once all samples are drawn; how many features pixels are is only known then
        ours = replace(extractor.kind, dimensions=extractor.kind.dimensions or known.kind.dimensions)
        require_same_kind(ours, known.kind, name=known.origin.name)
    made = _blocks(where, extractor, source, blocks, say, known.origin)
    first = next(made)
    return measure([first, *made], _agreed(known, first, assumed), seed=source.seed)


def evaluate_prompts(
    where: str, prompts: str, *, clip: str | None, reference: str | None, spec: ExtractorSpec, source: Source,
    cache: Folder | None = None, say: Say = print,
) -> ImageFigures:  # fmt: skip
    """As on COCO: one image for each prompt of a file, their CLIP score, and where there is a reference, the distances to it.

    clip: a folder with a CLIP of transformers'. Raises ConfigError where neither is asked for or the model takes no prompts, and what
    reading either raises.
    """
    if clip is None and reference is None:
        raise ConfigError(f"--prompts {prompts}: give --clip, --reference, or both: what the images are to be measured by")
    if (model := _model(where, source)) is None:
        raise ConfigError(f"--prompts {prompts}: {where} is no model that could draw them")
    judge = ClipScore(clip) if clip is not None else None
    images = PromptedImages(model, prompts, n=source.n, seed=source.seed, name=where, clip=judge)
    name = f"{where}, one image for each prompt of {prompts}, seed {source.seed}"
    if reference is None:
        for _ in images.parts():
            pass
        found = ImageFigures({}, Origin(name, images.sha256, len(images.texts), drawn=model.drawn))
    else:
        extractor = spec.build(cache=cache)
        known = _reference(reference, extractor, None, cache, source, say)
        gathered = tally(_fitting(images.parts(), where, known.origin), extractor)
        samples = gathered.statistics(name, images.sha256, drawn=model.drawn, reference=known.origin)
        found = measure([samples], _agreed(known, samples, False), seed=source.seed)
    found = replace(found, of={"prompts": images.prompts_sha256})
    if judge is None:
        return found
    score = float(np.concatenate(images.scores).mean())
    notes = (*found.notes, f"CLIP score by {judge.name}, a cosine")
    return replace(found, figures=found.figures | {"clip_score": score}, of=found.of | {"CLIP": judge.sha256}, notes=notes)


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


def _reference(where: str, extractor: Extracts, sha256: str | None, cache: Folder | None, source: Source, say: Say) -> Statistics:
    if is_statistics(where):
        return read_statistics(fetch(where, sha256=sha256, cache=cache, key="reference"))
    if sha256 is not None:
        raise ConfigError(f"--reference-sha256: is for a file of statistics; {where} is none")
    return statistics_of(where, extractor, replace(source, n=None, seed=0), say=say)


def _fitting(parts: Iterable[list[np.ndarray]], name: str, reference: Origin | None) -> Iterator[list[np.ndarray]]:
    """A model's images. Raises ConfigError where the first ones are of another resolution than the reference, before the rest is drawn."""
    for images in parts:
        if reference is not None:
            require_same_resolution(Origin(name, "", None, images[0].shape[:2]), reference)
        yield images


def _agreed(reference: Statistics, samples: Statistics | None, assumed: bool) -> Statistics:
    """The reference with a kind. Raises ConfigError where it has none and nobody says that it may be assumed."""
    if reference.kind is not None:
        return reference
    if not assumed or samples is None or samples.kind is None:
        raise ConfigError(
            f"{reference.origin.name}: doesn't tell what extractor and resizer made it (EDM's fid-refs don't); "
            "if you know that they are those asked for here, say so with --assume-kind"
        )
    return assume_kind(reference, samples.kind)


def _told(found: Statistics, where: str) -> Statistics:
    if found.kind is None:
        raise ConfigError(f"{where}: doesn't tell what made it: only statistics of `disback-ray statistics` can be evaluated")
    return found


def _blocks(where: str, extractor: Extracts, source: Source, blocks: int, say: Say, reference: Origin) -> Iterator[Statistics]:
    if blocks == 1 or _model(where, source) is not None:
        for block in range(blocks):
            yield statistics_of(where, extractor, replace(source, seed=source.seed + block), say=say, reference=reference)
        return
    if source.n is None:
        raise ConfigError(f"--blocks {blocks}: give --n as well, how many of {where} make a block")
    files = ImageFiles(where, skip_corrupt=source.skip_corrupt)
    images = (image for part in files.parts(PART) for image in part)
    for block in range(blocks):
        wanted = islice(images, source.n)
        found = tally(iter(lambda wanted=wanted: list(islice(wanted, PART)), []), extractor)  # type: ignore[misc]
        if found.moments.count < source.n:
            raise ConfigError(
                f"--blocks {blocks}: {where} has {block * source.n + found.moments.count} images, not {blocks} × {source.n}"
            )
        yield found.statistics(
            f"{files.name}, block {block + 1}", files.sha256, skipped=len(files.skipped), odd=files.odd, reference=reference
        )
    if files.note():
        say(files.note())


def _model(where: str, source: Source) -> Model | None:
    """The model that `where` names; None where it names images. Raises what `load_model` raises."""
    if where.endswith(ARCHIVES) or (where == DIGITS and not Path(DIGITS).exists()):
        return None
    folder = Folder.at(where)
    if where.endswith(MODELS) or folder.has(SUMMARY) or folder.has(DENOISER) or is_diffusers(where):
        return load_model(where, steps=source.steps, guidance=source.guidance, trust_modules=source.trust_modules)
    return None


def _digits(extractor: Extracts, n: int | None, keep: int, reference: Origin | None) -> Statistics:
    images = as_pixels(load_digits().images)[:n]
    found = tally((images[i : i + 256] for i in range(0, len(images), 256)), extractor, keep=keep)
    sha256 = hashlib.sha256(b"".join(i.tobytes() for i in images)).hexdigest()
    return found.statistics("scikit-learn's digits", sha256, reference=reference)


def evaluate_points(where: str, source: Source) -> ImageFigures:
    """A run on points against fresh draws of its recipe's mixture: sliced Wasserstein and energy distance, modes covered.

    Raises ConfigError where it is no such run, CheckpointError where it has no generator, or nothing is there.
    """
    folder, (beside, name) = Folder.at(where), Folder.of_file(where)
    if beside.size(name) is None and not folder.names():
        raise CheckpointError(f"{where}: nothing is there")
    data = recipe_of(folder).data if folder.has(CONFIG) else None
    if not isinstance(data, PointsData):
        raise ConfigError(
            f"{where}: give --reference: a folder, zip or parquet of images, or statistics; only runs on points need none"
        )
    measures = PointMeasures(data, samples=source.n, seed=source.seed)
    run = load_run(where, trust_modules=source.trust_modules)
    x = run.generate(measures.count, seed=source.seed)
    mixture = f"{data.kind} of {len(data.centres)} modes, std {data.std:g}"
    digests = [hashlib.sha256(points.numpy().tobytes()).hexdigest() for points in (x, measures.real)]
    return ImageFigures(
        measures.measure(Drawn(x, None)),
        Origin(f"{where}, seed {source.seed}", digests[0], len(x), drawn=run.drawn),
        reference=Origin(mixture, digests[1], len(measures.real)),
    )
