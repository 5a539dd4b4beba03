"""`disback-ray evaluate`: figures of a model or of images, against a reference, with what they are figures of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from disback_ray.algorithms.records import Drawn
from disback_ray.data.image_files import ImageFiles
from disback_ray.data.sources import PointsData
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluation.clip_score import ClipScore
from disback_ray.evaluation.extractors import ExtractorSpec
from disback_ray.evaluation.image_figures import ImageFigures, measure
from disback_ray.evaluation.kinds import Origin, require_same_kind
from disback_ray.evaluation.point_measures import PointMeasures
from disback_ray.evaluation.statistics import (
    Extracts,
    Statistics,
    assume_kind,
    read_statistics,
    tally,
)
from disback_ray.fetching import fetch
from disback_ray.image_statistics import (
    PART,
    Say,
    Source,
    drawing_model,
    is_statistics,
    model_of,
    refuse_points,
    statistics_of,
    statistics_of_prompts,
)
from disback_ray.prompted_images import PromptedImages
from disback_ray.result import load_run
from disback_ray.run_folder import CONFIG, recipe_of
from disback_ray.storage import Folder


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
    if not is_statistics(where):
        refuse_points(where)
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
    model = drawing_model(where, source, prompts)
    judge = ClipScore(clip) if clip is not None else None
    images = PromptedImages(model, prompts, n=source.n, seed=source.seed, name=where, clip=judge)
    if reference is None:
        for _ in images.parts():
            pass
        name = f"{where}, one image for each prompt of {prompts}, seed {source.seed}"
        found = ImageFigures({}, Origin(name, images.sha256, len(images.texts), drawn=model.drawn))
    else:
        extractor = spec.build(cache=cache)
        known = _reference(reference, extractor, None, cache, source, say)
        samples = statistics_of_prompts(images, prompts, extractor, reference=known.origin)
        found = measure([samples], _agreed(known, samples, False), seed=source.seed)
    found = replace(found, of={"prompts": images.prompts_sha256})
    if judge is None:
        return found
    score = float(np.concatenate(images.scores).mean())
    notes = (*found.notes, f"CLIP score by {judge.name}, a cosine")
    return replace(found, figures=found.figures | {"clip_score": score}, of=found.of | {"CLIP": judge.sha256}, notes=notes)


def _reference(where: str, extractor: Extracts, sha256: str | None, cache: Folder | None, source: Source, say: Say) -> Statistics:
    if is_statistics(where):
        return read_statistics(fetch(where, sha256=sha256, cache=cache, key="reference"))
    if sha256 is not None:
        raise ConfigError(f"--reference-sha256: is for a file of statistics; {where} is none")
    return statistics_of(where, extractor, replace(source, n=None, seed=0), say=say)


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
    model = model_of(where, source)
    if blocks == 1 or model is not None:
        for block in range(blocks):
            turn = replace(source, seed=source.seed + block)
            yield statistics_of(where, extractor, turn, say=say, reference=reference, model=model)
        return
    if source.n is None:
        raise ConfigError(f"--blocks {blocks}: give --n as well, how many of {where} make a block")
    files = ImageFiles(where, skip_corrupt=source.skip_corrupt)
    for block in range(blocks):
        found = tally(files.parts(PART, most=source.n), extractor, names=lambda: files.given)
        if found.moments.count < source.n:
            raise ConfigError(
                f"--blocks {blocks}: {where} has {block * source.n + found.moments.count} images, not {blocks} × {source.n}"
            )
        yield found.statistics(
            f"{files.name}, block {block + 1}", files.sha256, skipped=len(files.skipped), odd=files.odd, reference=reference
        )
    if files.note():
        say(files.note())


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
