"""The commands that measure: evaluate, statistics, mismatch and compare. Thin, as all of the command line."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from disback_ray.errors import ConfigError

WHAT = "A run, a teacher's file or folder, a folder, .zip, .parquet or .npz of images, `digits`, or statistics (.npz)."

Extractor = Annotated[str, typer.Option(help="What makes features: inception, digits, pixels, or module:factory of your own.")]
Weights = Annotated[
    str | None, typer.Option(help="Of inception: the path or address of inception-2015-12-05.pt (or pytorch-fid's .pth).")
]
Sha256 = Annotated[
    str | None, typer.Option("--sha256", help="Of the weights, in full or its first 8 digits; an address wants it.")
]
Mode = Annotated[str, typer.Option(help="clean-fid's: clean, legacy_pytorch or legacy_tensorflow.")]
Cache = Annotated[str | None, typer.Option(help="A folder that keeps what comes from an address; nothing is kept elsewhere.")]
Count = Annotated[int | None, typer.Option("--n", help="How many samples: by default all of a folder, 50,000 of a model.")]
Seed = Annotated[int, typer.Option(help="Of what a model draws, and of the kernel distance's subsets.")]
Steps = Annotated[int | None, typer.Option(help="Of a diffusion teacher's sampler; Heun's 18 or DDIM's 50 by default.")]
Guidance = Annotated[float | None, typer.Option(help="Of a text-to-image teacher to its prompts; 1 for none, 8 by default.")]
Skip = Annotated[bool, typer.Option("--skip-corrupt", help="Pass over images that can't be read, and count them.")]
Trust = Annotated[bool, typer.Option("--trust-modules", help="A module:factory that a run or teacher names may run its code.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def evaluate(
    what: Annotated[str, typer.Argument(help=WHAT)],
    reference: Annotated[
        str | None,
        typer.Option(help="Images (a folder, .zip, .parquet) or statistics (.npz, EDM's fid-refs too); not for points."),
    ] = None,
    extractor: Extractor = "inception",
    weights: Weights = None,
    sha256: Sha256 = None,
    mode: Mode = "clean",
    reference_sha256: Annotated[str | None, typer.Option(help="Of the reference's statistics; an address wants it.")] = None,
    cache: Cache = None,
    n: Count = None,
    seed: Seed = 0,
    blocks: Annotated[int, typer.Option(help="Of so many samples each, of which the nearest counts; EDM's convention is 3.")] = 1,
    steps: Steps = None,
    guidance: Guidance = None,
    skip_corrupt: Skip = False,
    trust_modules: Trust = False,
    assume_kind: Annotated[
        bool, typer.Option("--assume-kind", help="Take a reference that doesn't tell its extractor and resizer for these.")
    ] = False,
    prompts: Annotated[
        str | None, typer.Option(help="A file, one prompt a line, or a .parquet: one image each, of a text-to-image model.")
    ] = None,
    clip: Annotated[str | None, typer.Option(help="A folder with a CLIP of transformers': how well images fit prompts.")] = None,
    json_: Annotated[
        str | None, typer.Option("--json", help="Where to write the figures, with what they are figures of.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="An earlier --json: the difference, refused where kinds differ.")] = None,
    debug: Debug = False,
) -> None:
    """Measure samples against a reference: Fréchet distance (FID), kernel distance (KID), precision and recall; points by their own."""
    from disback_ray.evaluating import evaluate as measure
    from disback_ray.evaluating import evaluate_points, evaluate_prompts
    from disback_ray.evaluation.image_figures import ImageFigures, differences, drawn_otherwise
    from disback_ray.image_statistics import Source
    from disback_ray.storage import Folder

    earlier = None if against is None else ImageFigures.from_json(_read_json(against), name=against)
    source = Source(n, seed, steps, guidance, skip_corrupt, trust_modules)
    if clip is not None and prompts is None:
        raise ConfigError(f"--clip {clip}: give --prompts as well, which the images are to fit")
    if prompts is not None:
        found = evaluate_prompts(
            what, prompts, clip=clip, reference=reference, spec=_spec(extractor, weights, sha256, mode), source=source,
            cache=None if cache is None else Folder.at(cache), say=_say,
        )  # fmt: skip
    elif reference is None:
        found = evaluate_points(what, source)
    else:
        found = measure(
            what, reference, _spec(extractor, weights, sha256, mode), source=source, cache=None if cache is None else Folder.at(cache),
            reference_sha256=reference_sha256, assumed=assume_kind, blocks=blocks, say=_say,
        )  # fmt: skip
    for line in found.lines():
        print(line)
    if json_ is not None:  # before what may refuse to compare: the figures took their time
        _write_json(json_, found.to_json())
    if earlier is not None:
        for name, value in differences(found, earlier, name=str(against)).items():
            print(f"{value:+.6g} {name.replace('_', ' ')}, against {against}{drawn_otherwise(found, earlier)}")


def statistics(
    what: Annotated[str, typer.Argument(help=WHAT.replace(", or statistics (.npz)", ""))],
    out: Annotated[str, typer.Option(help="The .npz to write: mu, sigma, what made them, and features.")],
    extractor: Extractor = "inception",
    weights: Weights = None,
    sha256: Sha256 = None,
    mode: Mode = "clean",
    cache: Cache = None,
    n: Count = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    prompts: Annotated[
        str | None, typer.Option(help="As for evaluate: a text-to-image teacher draws one image for each.")
    ] = None,
    features: Annotated[
        int, typer.Option(help="Of so many samples the features are kept, for kernel distance and recall.")
    ] = 10_000,
    skip_corrupt: Skip = False,
    trust_modules: Trust = False,
    debug: Debug = False,
) -> None:
    """Make reference statistics of images, or of a teacher's own samples, for `evaluate --reference`."""
    from disback_ray.image_statistics import Source, make_statistics, refuse_points
    from disback_ray.storage import Folder

    refuse_points(what)
    built = _spec(extractor, weights, sha256, mode).build(cache=None if cache is None else Folder.at(cache))
    found = make_statistics(
        what, out, built, Source(n, seed, steps, guidance, skip_corrupt, trust_modules), keep=features, say=_say, prompts=prompts
    )
    print(f"{out}: {found.kind}; {found.origin}")


def mismatch(
    what: Annotated[str, typer.Argument(help="A run's folder or URI.")],
    n: Annotated[
        int, typer.Option("--n", help="Samples of the generator, which are also what their own score is taken from.")
    ] = 4096,
    seed: Annotated[int, typer.Option(help="Of the samples and of the noise on them.")] = 0,
    sigma: Annotated[list[float] | None, typer.Option(help="A level of noise; repeatable. By default the run's bands.")] = None,
    storage: Annotated[str | None, typer.Option(help="Where the run's teacher lies, if not where the run says.")] = None,
    trust_modules: Trust = False,
    json_: Annotated[str | None, typer.Option("--json", help="Where to write the figures.")] = None,
    debug: Debug = False,
) -> None:
    """Mismatch degree, Equation 9, of a run: its teacher's score against the generator's own, with coverage and real data's bound."""
    from disback_ray.run_mismatch import mismatch as measure

    found = measure(what, n=n, seed=seed, sigmas=tuple(sigma or ()), storage=storage, trust_modules=trust_modules)
    for line in found.lines():
        print(line)
    if json_ is not None:
        _write_json(json_, found.to_json())


def compare(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a YAML file.")],
    arms: Annotated[
        str, typer.Option(help="Of baseline, warm, disback and auto, with commas. The first two are always shown.")
    ] = "baseline,warm,disback",
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, …; each arm plays each of them.")] = 5,
    levels: Annotated[
        str | None, typer.Option(help="Of the recipe's main figure, with commas, such as 0.3,0.2; by default round ones.")
    ] = None,
    goal: Annotated[
        list[str] | None, typer.Option(metavar="ARM:LEVEL:SPEEDUP", help="Such as disback:0.3:2. Repeatable.")
    ] = None,
    every: Annotated[int | None, typer.Option(help="Steps between two looks; by default a sixtieth of the run.")] = None,
    out: Annotated[
        str | None, typer.Option(help="The comparison's folder; used again, it goes on. Default: runs/RECIPE-comparison.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for run, for all arms. Repeatable.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="cluster.yaml: play over Ray's actors; without it in this process, with the same numbers.")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="As for run: to see that it works.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="As for run: play all of it anew.")] = False,
    json_: Annotated[str | None, typer.Option("--json", help="Where else to write the figures.")] = None,
    debug: Debug = False,
) -> None:
    """Is the path worth it? Play a recipe without it, with only its warm start, and whole; steps to each level, recording charged."""
    from disback_ray.comparing import FIGURES, PAGE
    from disback_ray.comparing import compare as play
    from disback_ray.comparison.told import Goal, lines

    goals = [Goal.parse(text) for text in goal or []]
    found, where = play(
        recipe, arms=arms.split(","), seeds=seeds, out=out, overrides=set_ or [], levels=_numbers(levels),
        goals=goals, every=every, cluster=cluster, tiny=tiny,
        fresh=fresh, command=shlex.join(["disback-ray", *sys.argv[1:]]), say=_say,
    )  # fmt: skip
    print(*lines(found, goals), f"{where.uri}/{PAGE}", sep="\n")
    if json_ is not None:
        _write_json(json_, where.read_json(FIGURES))


def _numbers(text: str | None) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(f"--levels {text}: expected numbers with commas, such as 0.3,0.2") from None


def _write_json(file: str, value: object) -> None:
    from disback_ray.storage import Folder

    folder, name = Folder.of_file(file)
    folder.write_json(name, value)


def _spec(name: str, weights: str | None, sha256: str | None, mode: str):  # type: ignore[no-untyped-def]  # torch is slow to import
    from disback_ray.evaluation.extractors import ExtractorSpec

    if mode not in ("clean", "legacy_pytorch", "legacy_tensorflow"):
        raise ConfigError(f"--mode {mode}: expected clean, legacy_pytorch or legacy_tensorflow")
    return ExtractorSpec(name, weights, sha256, cast(Literal["clean", "legacy_pytorch", "legacy_tensorflow"], mode))


def _read_json(file: str) -> object:
    try:
        return json.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--against {file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"--against {file}: not JSON") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr)
