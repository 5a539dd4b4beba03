"""Line charts as SVG, to stand inside a page: its style sheet colours them, by day and by night, and no script is needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42
NAMES = 56  # above the chart, for the names of its marks
BINS = 240  # a longer series is drawn as the mean of each bin within a band from its least to its greatest value
DOTS = 60  # a series of up to so many values shows each as a dot
APART = 15  # least distance between the labels of two marks


@dataclass(frozen=True)
class Series:
    """One line. steps, values: [K], in order of step; what is not finite is left out. colour: a class of the style sheet."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    colour: str = "first"


@dataclass(frozen=True)
class Axis:
    """Maps a range of numbers to a range of the picture, evenly or by their logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: np.ndarray | float) -> np.ndarray:
        low, high, value = (np.log(v) if self.log else np.asarray(v, float) for v in (self.low, self.high, value))
        return np.asarray(self.start + (value - low) / (high - low) * (self.end - self.start))

    def ticks(self) -> list[float]:
        """Round numbers within the range; by logarithm, powers of ten, with some multiples where they are few."""
        if not self.log or self.high < 4 * self.low:
            return _even_ticks(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = math.ceil(len(decades) / 7)
        factors = (1,) if self.high > 300 * self.low else (1, 2, 5) if self.high > 12 * self.low else (1, 1.5, 2, 3, 5, 7)
        ticks = [factor * 10.0**decade for decade in decades if decade % every == 0 for factor in factors]
        return [tick for tick in ticks if self.low <= tick <= self.high]


def chart(
    series: Sequence[Series],
    *,
    label: str,
    log: bool = False,
    percent: bool = False,
    marks: Sequence[tuple[int, str]] = (),
    levels: Sequence[tuple[str, float]] = (),
) -> Markup | None:
    """A chart over steps, or None where there is nothing to draw. label: what it shows, for those who can't see it.

    marks: steps with a vertical line and its name. levels: values with a horizontal line and its name.
    log: the values' axis is logarithmic, and what is not positive is left out. percent: the values are shares of 1.
    """
    drawn = [_finite(one, positive=log) for one in series]
    drawn = [one for one in drawn if len(one.values)]
    if not drawn:
        return None
    levels = [(name, value) for name, value in levels if math.isfinite(value) and (value > 0 or not log)]
    room = [part for _, value in levels for part in (value, value / 1.5 if log else value)]  # its name stands beneath it
    numbers = np.concatenate([one.values for one in drawn] + [np.array(room)])
    last = max([int(one.steps.max()) for one in drawn] + [step for step, _ in marks])
    first = min(0, *(int(one.steps.min()) for one in drawn))
    x = Axis(first, max(last, first + 1), LEFT, WIDTH - RIGHT)
    y = Axis(*_range(numbers, log=log, percent=percent), HEIGHT - BOTTOM, TOP + NAMES * bool(marks), log)
    shapes = [*_grid(x, y, percent), *_marks(x, marks), *_levels(y, levels)]
    shapes += [shape for one in drawn for shape in _line(one, x, y, percent)]
    body = Markup("").join(shapes)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(WIDTH, HEIGHT, label, body)


def number(value: float, *, percent: bool = False) -> str:
    """Three digits that say something: 0.0123, 4.57, 312, 12,400; or a share in percent."""
    if not math.isfinite(value):
        return "not finite"
    if percent:
        return f"{100 * value:.1f} %"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2g}"
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _finite(series: Series, *, positive: bool) -> Series:
    values = np.asarray(series.values, dtype=np.float64)
    kept = np.isfinite(values) & ((values > 0) | (not positive))
    return Series(series.name, np.asarray(series.steps)[kept], values[kept], series.colour)


def _range(values: np.ndarray, *, log: bool, percent: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if log:
        room = max((high / low) ** 0.06, 1.05)
        return low / room, high * room
    if percent:
        return min(0.0, low), max(1.0, high)
    low = min(0.0, low)
    return low, high + 0.08 * ((high - low) or 1.0)


def _even_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(index * step, 12) for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _grid(x: Axis, y: Axis, percent: bool) -> list[Markup]:
    across = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text class="y" x="{}" y="{:.1f}">{}</text>')
    down = Markup('<text class="x" x="{:.1f}" y="{}">{}</text>')
    shapes = [
        across.format(LEFT, WIDTH - RIGHT, at := float(y(tick)), at, LEFT - 8, at, f"{tick:.0%}" if percent else number(tick))
        for tick in y.ticks()
    ]
    shapes += [down.format(float(x(tick)), HEIGHT - BOTTOM + 19, f"{tick:,.0f}") for tick in x.ticks() if tick == int(tick)]
    return [*shapes, Markup('<text class="x name" x="{}" y="{}">step</text>').format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5)]


def _marks(x: Axis, marks: Sequence[tuple[int, str]]) -> list[Markup]:
    """From the last to the first: where labels would touch, the later one is kept. Every line keeps its name for the pointer."""
    line = Markup('<g class="mark"><title>{}</title><line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>{}</g>')
    text = Markup('<text transform="translate({:.1f} {}) rotate(-90)">{}</text>')
    top = TOP + NAMES
    shapes, free = [], math.inf
    for step, name in sorted(marks, reverse=True):
        at = float(x(step))
        shown = Markup("")
        if at <= free:
            shown, free = text.format(at, top - 6, name), at - APART
        shapes.append(line.format(f"step {step:,}: {name}", at, at, top, HEIGHT - BOTTOM, shown))
    return shapes


def _levels(y: Axis, levels: Sequence[tuple[str, float]]) -> list[Markup]:
    """The highest has its name above its line and the others below, since they may be near each other."""
    shape = Markup(
        '<g class="level"><title>{}</title><line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}">{}</text></g>'
    )
    shapes, beside = [], -5
    for name, value in sorted(levels, key=lambda level: -level[1]):
        at = float(y(value))
        shapes.append(shape.format(f"{name}: {number(value)}", LEFT, WIDTH - RIGHT, at, at, LEFT + 5, at + beside, name))
        beside = 14
    return shapes


def _line(series: Series, x: Axis, y: Axis, percent: bool) -> list[Markup]:
    steps, values = series.steps, series.values
    shapes = []
    if len(values) > 2 * BINS:
        bins = np.array_split(np.arange(len(values)), BINS)
        low, high = ([float(y(extreme(values[b]))) for b in bins] for extreme in (np.min, np.max))
        at = [float(x(steps[b].mean())) for b in bins]
        outline = _points([*at, *reversed(at)], [*high, *reversed(low)])
        shapes.append(Markup('<polygon class="band {}" points="{}"/>').format(series.colour, outline))
        steps, values = np.array([steps[b].mean() for b in bins]), np.array([values[b].mean() for b in bins])
    shapes.append(Markup('<polyline class="line {}" points="{}"/>').format(series.colour, _points(x(steps), y(values))))
    if len(values) <= DOTS:
        dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
        shapes += [
            dot.format(series.colour, float(x(s)), float(y(v)), f"{series.name}, step {int(s):,}: {number(v, percent=percent)}")
            for s, v in zip(steps, values, strict=True)
        ]
    return shapes


def _points(across: Sequence[float] | np.ndarray, down: Sequence[float] | np.ndarray) -> Markup:
    return escape(" ".join(f"{a:.1f},{d:.1f}" for a, d in zip(across, down, strict=True)))
