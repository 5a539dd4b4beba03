"""`disback-ray mismatch`: Eq. (9) for a run's generator, with what it doesn't see beside it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.probing import score_at
from disback_ray.algorithms.records import Drawn, Probe
from disback_ray.algorithms.sampling import classes_evenly
from disback_ray.config import Recipe, Teacher
from disback_ray.data.digits import load_digits
from disback_ray.data.sources import DigitsData, PointsData
from disback_ray.device import best_device
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluation.image_figures import ImageFigures
from disback_ray.evaluation.kinds import Origin
from disback_ray.evaluation.looks import bands, spread
from disback_ray.evaluation.mismatch import measure_mismatch
from disback_ray.evaluation.points import modes_covered
from disback_ray.result import RunResult, load_run
from disback_ray.run_folder import recipe_of, storage_of
from disback_ray.storage import Folder
from disback_ray.teachers.mixture import ExactMixture
from disback_ray.teachers.saved import SETTINGS, load_denoiser, load_spec, refuse_modules

REFERENCES = 4096  # samples: fewer leave the stable target field noise of its own
AT_ONCE = 64
BELOW = (
    "the run is below the bound, which is the paper's word for real data's own mismatch: this teacher's score fits its student's samples "
    "better than real data, which says more about the teacher than about the student"
)
BLIND = "the mismatch hardly sees dropped modes: read it beside modes and spread"


def mismatch(
    where: str, *, n: int = REFERENCES, seed: int = 0, sigmas: Sequence[float] = (), storage: str | None = None,
    trust_modules: bool = False,
) -> ImageFigures:  # fmt: skip
    """The teacher's score against that of n samples of the generator, by the stable target field, σ²-weighted; and of real data.

    sigmas: levels of noise; by default the bands that the run looked at. storage: where the run's teacher lies, if not where the run
    says. Raises ConfigError, CheckpointError, RunFolderError.
    """
    if n < 2 or not all(0 < sigma < math.inf for sigma in sigmas):
        asked = ", ".join([f"--n {n}", *(f"--sigma {sigma:g}" for sigma in sigmas)])
        raise ConfigError(f"mismatch: {asked}: two samples or more, and levels of noise above 0")
    run, recipe = load_run(where, trust_modules=trust_modules), recipe_of(Folder.at(where))
    levels = tuple(sigmas) or bands(recipe.backtracking.noise)
    cache = Folder.at(storage or storage_of(run.folder)) / "teachers"
    score = _teacher_score(run, recipe, cache, trust_modules=trust_modules)
    condition = classes_evenly(n, run.classes) if run.classes else None
    made = Drawn(run.generate(n, seed=seed, labels=condition), condition)
    degree = measure_mismatch(score, made.x, condition, sigmas=levels, seed=seed)
    figures = {"mismatch": degree.degree} | {f"at σ {sigma:g}": value for sigma, value in degree.by_sigma.items()}
    if isinstance(recipe.data, PointsData):
        coverage = modes_covered(made.x, recipe.data.centres, recipe.data.std)
        figures |= {"modes": float(coverage.covered), "modes of the data": float(coverage.total)}
    figures["spread"] = spread(made)
    real, name = _real(recipe, n, seed)
    notes: tuple[str, ...] = (
        "no data to compare with: the ideal lower bound, the teacher's mismatch on real data, isn't known",
        BLIND,
    )
    if real is not None:
        bound = measure_mismatch(score, real.x, real.condition, sigmas=levels, seed=seed)
        figures |= {"ideal lower bound": bound.degree, "spread of real data": spread(real)}
        of_what = f"the ideal lower bound is the teacher's mismatch on {len(real.x):,} samples of {name}"
        notes = (of_what, BELOW if degree.degree < bound.degree else "", BLIND)
    sha256 = hashlib.sha256(made.x.numpy().tobytes()).hexdigest()
    return ImageFigures(figures, Origin(f"{where}, seed {seed}", sha256, n, drawn=run.drawn), notes=tuple(filter(None, notes)))


def _real(recipe: Recipe, n: int, seed: int) -> tuple[Drawn | None, str]:
    if isinstance(recipe.data, PointsData):
        return recipe.data.draw(Batch(seed, "evaluation", 0, 0, n)), f"the recipe's {recipe.data.kind}"
    if isinstance(recipe.data, DigitsData):
        digits = load_digits()
        return Drawn(digits.images, digits.labels if recipe.data.conditional else None), "scikit-learn's digits"
    return None, ""


def _teacher_score(run: RunResult, recipe: Recipe, cache: Folder, *, trust_modules: bool) -> Callable[[Probe], Tensor]:
    """The score of the run's own teacher: the mixture's, where the recipe says so, else the network's in the cache."""
    denoiser: nn.Module
    if isinstance(recipe.data, PointsData) and isinstance(recipe.teacher, Teacher) and recipe.teacher.exact_score:
        denoiser = ExactMixture(recipe.data.centres, std=recipe.data.std)
    else:
        folder = cache / str(run.summary.get("teacher"))
        if not folder.has(SETTINGS):
            raise CheckpointError(
                f"{run.folder.uri}: its teacher isn't at {folder.uri}: name the storage that holds it (--storage)"
            )
        refuse_modules(load_spec(folder), where=folder.uri, trust=trust_modules or load_spec(folder).module in recipe.modules)
        denoiser = load_denoiser(folder)
    device = best_device()
    denoiser = denoiser.to(device)
    return lambda probe: score_at(denoiser, probe, at_once=AT_ONCE, device=device)
