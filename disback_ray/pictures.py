"""Pictures of what a run makes, as PNG bytes: grids of images, and the paper's Figures 8 and 9 for 2-D points.

Colours are Okabe and Ito's, told apart by every kind of colour vision: the data blue, what the generator makes vermilion.
matplotlib is imported by who draws: the driver and most roles start without it.
"""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from disback_ray.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray | Tensor

DATA, GENERATED, INK, QUIET = "#0072B2", "#D55E00", "#222222", "#767676"
DPI = 144
DOTS = 2000  # of a set of points; more would only blacken the picture
GAP = 2  # between images, in pixels of the picture per side


def image_grid(images: Array, *, columns: int = 10, scale: int | None = None, labels: Sequence[str] | None = None) -> bytes:
    """Images side by side, each of their pixels a crisp square of `scale` × `scale`.

    images: [N, C, H, W] with C 1 or 3, in [-1, 1]; what lies outside is cut off, NaN is grey.
    scale: None makes each about 64 pixels wide. labels: N short texts, set under the images. Raises ConfigError for other shapes.
    """
    pixels = _array(images)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise ConfigError(f"images have shape {pixels.shape}: give [N, C, H, W] with N > 0 and C 1 or 3")
    scale = scale or max(1, round(64 / pixels.shape[3]))
    tiles = ((np.nan_to_num(pixels).clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2).repeat(3 // tiles.shape[3], axis=3)
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    text = 0 if labels is None else max(18, tiles.shape[1] // 4)
    high, wide = tiles.shape[1] + 2 * GAP + text, tiles.shape[2] + 2 * GAP
    canvas = np.full((rows * high, columns * wide, 3), 255, np.uint8)
    figure = _figure(columns * wide / DPI, rows * high / DPI)
    for index, tile in enumerate(tiles):
        top, left = index // columns * high + GAP, index % columns * wide + GAP
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        if labels is not None:
            across, down = left + tile.shape[1] / 2, top + tile.shape[0] + text / 2
            figure.text(
                across / canvas.shape[1], 1 - down / canvas.shape[0], labels[index],
                ha="center", va="center_baseline", fontsize=text * 0.6 * 72 / DPI, color=INK,
            )  # fmt: skip
    figure.figimage(canvas, origin="upper")
    return _png(figure)


def snapshots(frames: Sequence[tuple[str, Array]], real: Array) -> bytes:
    """The generator's points along training, over the data's: the paper's Figure 8.

    frames: titles, which may be empty, with points [N, 2]. real: [M, 2], and M may be 0.
    All share one scale, which shows 99 % of the points.
    """
    assert frames
    data = _thinned(_array(real))
    drawn = [(title, _thinned(_array(points))) for title, points in frames]
    rows = math.ceil(len(drawn) / 4)
    columns = math.ceil(len(drawn) / rows)
    side = 2.4 if len(drawn) > 1 else 4.4
    figure = _figure(columns * side, rows * (side + 0.25) + 0.3)
    window = _window([data, *(points for _, points in drawn)])
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (title, points) in zip(panels[: len(drawn)], drawn, strict=True):
        _dots(panel, data, DATA, 0.2, size=14)  # a halo, which still shows once the generator covers the data
        _dots(panel, points, GENERATED, 0.5)
        _frame(panel, title, window)
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    _legend(figure, [*([("data", DATA)] if len(data) else []), ("generator", GENERATED)])
    return _png(figure)


def score_fields(fields: Sequence[tuple[str, Array, Array, Array]]) -> bytes:
    """Scores as arrows over the points that they should lead to: the paper's Figure 9.

    fields: titles with grid [M, 2], vectors [M, 2] and points [N, 2]. An arrow's colour is its vector's length, on one scale for
    all; its own length grows with the vector's square root, for the weak ones near the points to show a direction too.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    assert fields
    # Viridis without its yellow end, which white paper swallows.
    colours = LinearSegmentedColormap.from_list("strength", colormaps["viridis_r"](np.linspace(0.15, 1, 64)))
    figure = _figure(4.4 * len(fields) + 0.9, 4.8)
    panels = figure.subplots(1, len(fields), squeeze=False)[0]
    lengths = np.concatenate([np.linalg.norm(_array(vectors), axis=1) for _, _, vectors, _ in fields])
    strong = float(np.quantile(lengths, 0.98)) or 1.0
    scale = Normalize(0, strong)
    for panel, (title, grid, vectors, points) in zip(panels, fields, strict=True):
        at, towards = _array(grid), _array(vectors)
        length = np.linalg.norm(towards, axis=1)
        cell = np.ptp(at, axis=0).max() / max(1, math.sqrt(len(at)) - 1)
        shown = 0.9 * cell * np.sqrt(np.minimum(length / strong, 1))
        unit = towards / np.maximum(length, 1e-12)[:, None]
        _dots(panel, _thinned(_array(points)), "#8a9099", 0.3)
        panel.quiver(
            *at.T, *(unit * shown[:, None]).T, length, norm=scale, cmap=colours,
            angles="xy", scale_units="xy", scale=1, pivot="mid", width=0.0045, headwidth=4, headlength=4, headaxislength=3.5,
        )  # fmt: skip
        centre, reach = (at.max(0) + at.min(0)) / 2, np.ptp(at, axis=0).max() / 2 + cell
        _frame(panel, title, (centre - reach, centre + reach))
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=list(panels), shrink=0.8, pad=0.02)
    bar.set_label("length of the score", color=INK, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=QUIET)
    return _png(figure)


def _array(values: Array) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def _thinned(points: np.ndarray) -> np.ndarray:
    return points if len(points) <= DOTS else points[np.random.default_rng(0).permutation(len(points))[:DOTS]]


def _window(sets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A square around the data and 99 % of each set's points; a few that went astray should not shrink all the others."""
    finite = [points[np.isfinite(points).all(axis=1)] for points in sets]
    bounds = [np.quantile(points, [0.005, 0.995], axis=0) for points in finite if len(points)] or [np.array([[-1, -1], [1, 1]])]
    low, high = np.min([b[0] for b in bounds], axis=0), np.max([b[1] for b in bounds], axis=0)
    centre, reach = (low + high) / 2, float((high - low).max()) * 0.57 or 1.0
    return centre - reach, centre + reach


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _dots(panel: "Axes", points: np.ndarray, colour: str, opacity: float, *, size: float = 3.5) -> None:
    panel.scatter(points[:, 0], points[:, 1], s=size, color=colour, alpha=opacity, linewidths=0)


def _frame(panel: "Axes", title: str, window: tuple[np.ndarray, np.ndarray]) -> None:
    panel.set(xlim=(window[0][0], window[1][0]), ylim=(window[0][1], window[1][1]), aspect="equal")
    if title:
        panel.set_title(title, fontsize=10, color=INK)
    panel.tick_params(labelsize=7, colors=QUIET, length=2)
    panel.locator_params(nbins=5)
    for spine in panel.spines.values():
        spine.set(color="#d0d0d0", linewidth=0.8)


def _legend(figure: "Figure", entries: Sequence[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], linestyle="", marker="o", markersize=5, color=colour, label=name) for name, colour in entries]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9, labelcolor=INK)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
