"""The charts of a run over its steps, and what to read from each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from disback_ray.evaluation.looks import SIGMAS
from disback_ray.report.chart import Series, chart
from disback_ray.report.figures import MAIN, MEASURES, Figures, node_name, value

RECORDING, BACKTRACKING = "recording", "backtracking"
# Title, text, and lines: a column of the table, its name, its colour.
TRAINING = (
    (
        "Score difference",
        "Root mean square of w(t)(s_φ − s_target), Eq. (8): all that the generator has of a loss. Expected to oscillate, and to jump "
        "where the target switches; its height says nothing about quality.",
        (("field_norm", "field", "first"),),
    ),
    (
        "Loss of the fake score",
        "Denoising loss of s_φ on samples of the generator, Eq. (5). Expected to oscillate: s_φ chases a generator that moves. It may "
        "even rise while all goes well, as samples grow more varied.",
        (("fake_loss", "loss", "first"),),
    ),
    (
        "Gradient norms",
        "Of each step, before clipping.",
        (("generator_grad_norm", "generator", "first"), ("fake_grad_norm", "fake score", "second")),
    ),
)


@dataclass(frozen=True)
class Curve:
    """A chart with its title, what to read from it, and the names and colours of its lines where it has several."""

    title: str
    text: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()


def quality(metrics: pa.Table, figures: Figures, switches: Sequence[Mapping[str, int]]) -> list[Curve]:
    """The curves that show whether the run converges: the main figure, against the teacher's and the real data's, and others."""
    curves = []
    for name in (*MAIN, "accuracy", "modes", "in_modes"):
        measure = MEASURES[name]
        steps, values = _column(metrics, name, BACKTRACKING)
        start = value(figures, "untrained", name)
        if start is not None and len(steps) and steps[0] > 0:
            steps, values = np.insert(steps, 0, 0), np.insert(values, 0, start)
        levels = [
            (text, level)
            for part, text in (("teacher", "teacher"), ("real_halves", "real against real"))
            if name in MAIN and (level := value(figures, part, name)) is not None
        ]
        text = f"{measure.meaning[0].upper()}{measure.meaning[1:]}. {measure.better.capitalize()} is better."
        options = {"log": name in MAIN, "percent": measure.percent, "marks": _marks(metrics, switches), "levels": levels}
        curves += _curve(measure.title, text, [Series("generator", steps, values)], **options)
    return curves


GAPS = (
    "Root mean square of σ(s_φ − s_θ) at fixed σ, on noise that is the same at every look. It says how far the generator's score is "
    "from the teacher's: it should fall, and stay. Where it stays high at small σ only, the details are missing; at large σ, whole parts."
)
MISMATCH = (
    "Eq. (9), weighted by σ²: the teacher's score against the samples' own (Eqs. 13–17). It should fall towards the bound of real "
    "data. The second line is s_φ's, which should be the lower one: where it isn't, s_φ lags and Eq. (8) points wrong. It hardly "
    "sees dropped modes: read it beside coverage and spread."
)
SPREAD = "How far two samples are apart: it should come to the level of real data and not fall again; a fall is a collapse."


def looks(
    metrics: pa.Table, bounds: Mapping[str, float], switches: Sequence[Mapping[str, int]], *, measured: bool
) -> list[Curve]:
    """The curves on held noise: the score difference by band, the mismatch degree, and the samples' spread."""
    marks = _marks(metrics, switches)
    shown = [s for s in SIGMAS if len(_column(metrics, f"gap_{s:g}", BACKTRACKING)[0])]
    ends = dict(zip(("first", "second", "third"), [*shown[:1], *shown[len(shown) // 2 :][:1], *shown[-1:]], strict=False))
    series = [
        Series(f"σ {sigma:g}", *_column(metrics, f"gap_{sigma:g}", BACKTRACKING), colour)
        for sigma, colour in {sigma: colour for colour, sigma in reversed(ends.items())}.items()
    ]
    curves = _curve("Score difference on held noise", GAPS, series[::-1], log=True, marks=marks)
    real = "real data" if measured else "the teacher's samples"
    levels = {name: [(f"{real}", bounds[name])] if name in bounds else [] for name in ("mismatch", "spread")}
    pair = [
        Series(name, *_column(metrics, column, BACKTRACKING), colour)
        for name, column, colour in (("teacher", "mismatch", "first"), ("s_φ", "fake_mismatch", "second"))
    ]
    curves += _curve("Mismatch degree", MISMATCH, pair, log=True, marks=marks, levels=levels["mismatch"])
    spread = [Series("generator", *_column(metrics, "spread", BACKTRACKING), "third")]
    return curves + _curve("Spread", SPREAD, spread, marks=marks, levels=levels["spread"])


def training(metrics: pa.Table, switches: Sequence[Mapping[str, int]]) -> list[Curve]:
    """Losses and gradients while backtracking."""
    curves = []
    for title, text, lines in TRAINING:
        series = [Series(name, *_column(metrics, column, BACKTRACKING), colour) for column, name, colour in lines]
        curves += _curve(title, text, series, log=True, marks=_marks(metrics, switches))
    return curves


def recording(metrics: pa.Table) -> list[Curve]:
    """The loss of the copy that leaves the path behind."""
    text = "Denoising loss on samples of the untrained generator, Eq. (7)."
    return _curve("Loss of the copy", text, [Series("loss", *_column(metrics, "fake_loss", RECORDING), "third")], log=True)


def last_step(metrics: pa.Table) -> tuple[str, int] | None:
    """The stage and the step of the last row; None where there is no row yet."""
    if not metrics.num_rows or not {"stage", "step"} <= set(metrics.column_names):
        return None
    return str(metrics.column("stage")[-1].as_py()), int(metrics.column("step")[-1].as_py())


def _curve(title: str, text: str, series: Sequence[Series], **options: Any) -> list[Curve]:
    svg = chart(series, label=f"{title}, over steps", **options)
    legend = tuple((line.name, line.colour) for line in series) if len(series) > 1 else ()
    return [] if svg is None else [Curve(title, text, svg, legend)]


def _marks(metrics: pa.Table, switches: Sequence[Mapping[str, int]]) -> list[tuple[int, str]]:
    """The switches that the run came to."""
    last = last_step(metrics)
    reached = last[1] if last and last[0] == BACKTRACKING else -1
    return [(int(switch["step"]), node_name(int(switch["node"]))) for switch in switches if int(switch["step"]) <= reached]


def _column(metrics: pa.Table, column: str, stage: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, int64 [K], and values, float64 [K], of those rows of a stage that have one."""
    found: list[tuple[int, float]] = []
    if {"stage", "step", column} <= set(metrics.column_names):
        rows = zip(*(metrics.column(name).to_pylist() for name in ("stage", "step", column)), strict=True)
        found = sorted((step, float(number)) for at, step, number in rows if at == stage and number is not None)
    return np.array([step for step, _ in found], np.int64), np.array([number for _, number in found], np.float64)
