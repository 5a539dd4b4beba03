"""What the charts show, read back from their SVG by their own labels."""

import math
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from disback_ray.report.chart import BOTTOM, HEIGHT, TOP, Series, chart, number


def parsed(*args, **kwargs) -> ElementTree.Element:
    svg = chart(*args, label="a test", **kwargs)
    assert svg is not None
    return ElementTree.fromstring(svg)


def series(values: list[float], *, every: int = 1, name: str = "line", colour: str = "first") -> Series:
    return Series(name, np.arange(len(values)) * every, np.array(values, dtype=float), colour)


def points(element: ElementTree.Element) -> np.ndarray:
    return np.array([[float(n) for n in pair.split(",")] for pair in element.get("points", "").split()])


def ticks(svg: ElementTree.Element, axis: str) -> tuple[list[float], list[float]]:
    """Values and positions of an axis' labels, as a reader sees them."""
    found = [(text.text or "", float(text.get(axis, "0"))) for text in svg.iter("text") if text.get("class") == axis]
    return [float(t.replace(",", "").replace("%", "e-2")) for t, _ in found], [at for _, at in found]


def read(svg: ElementTree.Element, at: np.ndarray, *, log: bool = False) -> np.ndarray:
    """[K, 2] of steps and values, by a straight line through the labels of each axis."""
    steps, across = ticks(svg, "x")
    values, down = ticks(svg, "y")
    x = np.polyval(np.polyfit(across, steps, 1), at[:, 0])
    y = np.polyval(np.polyfit(down, np.log(values) if log else values, 1), at[:, 1])
    return np.stack([x, np.exp(y) if log else y], axis=1)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 3e4])
def test_a_line_reads_as_its_values(log: bool, scale: float) -> None:
    values = scale * np.exp(-np.arange(30) / 6) + scale * 0.01
    svg = parsed([series(values.tolist(), every=20)], log=log)
    line = read(svg, points(next(svg.iter("polyline"))), log=log)
    assert line[:, 0] == pytest.approx(np.arange(30) * 20, abs=1.5)
    assert line[:, 1] == pytest.approx(values, rel=0.02 if log else 0, abs=0 if log else 0.006 * scale)


@pytest.mark.parametrize(("low", "high"), [(1, 1.3), (0.2, 1.1), (0.03, 4), (0.01, 300), (1e-6, 1e6)])
def test_an_axis_has_a_few_round_labels_evenly_apart(low: float, high: float) -> None:
    svg = parsed([series([low, high], every=100)], log=True)
    values, down = ticks(svg, "y")
    assert 2 <= len(values) <= 11
    gaps = [a - b for a, b in pairwise(down)]
    assert min(gaps) > 11  # units of the picture: labels are 12 high
    slopes = [gap / math.log(b / a) for gap, (a, b) in zip(gaps, pairwise(values), strict=True)]
    assert slopes == pytest.approx([slopes[0]] * len(slopes), rel=0.02)


def test_shares_go_from_nought_to_all() -> None:
    svg = parsed([series([0.1, 0.9])], percent=True)
    values, _ = ticks(svg, "y")
    assert (min(values), max(values)) == (0, 1)
    assert read(svg, points(next(svg.iter("polyline"))))[:, 1] == pytest.approx([0.1, 0.9], abs=0.005)


def test_a_long_series_keeps_its_extremes_in_a_band() -> None:
    values = np.ones(100_000)
    values[40_000], values[70_000] = 50, 0.02
    svg = parsed([series(values.tolist())], log=True)
    band = read(svg, points(next(svg.iter("polygon"))), log=True)
    assert len(band) < 1000
    assert band[:, 1].max() == pytest.approx(50, rel=0.02)
    assert band[:, 1].min() == pytest.approx(0.02, rel=0.02)
    assert band[band[:, 1].argmax(), 0] == pytest.approx(40_000, abs=500)
    line = read(svg, points(next(svg.iter("polyline"))), log=True)
    assert np.median(line[:, 1]) == pytest.approx(1, rel=0.01)


def test_marks_stand_at_their_steps_and_labels_that_would_touch_are_left_to_the_last() -> None:
    marks = [(step, f"node {9 - index}") for index, step in enumerate(range(0, 50, 5))] + [(500, "teacher")]
    svg = parsed([series([1.0, 2.0], every=1000)], marks=marks)
    groups = [group for group in svg.iter("g") if group.get("class") == "mark"]
    assert len(groups) == len(marks)
    assert {group.findtext("title") for group in groups} == {f"step {step}: {name}" for step, name in marks}
    steps, across = ticks(svg, "x")
    at = {group.findtext("title"): float(group.find("line").get("x1")) for group in groups}
    assert at["step 500: teacher"] == pytest.approx(np.interp(500, steps, across), abs=0.5)
    shown = [group.findtext("text") for group in groups if group.find("text") is not None]
    assert shown[0] == "teacher"
    assert 2 <= len(shown) < 5
    placed = sorted(at[group.findtext("title")] for group in groups if group.find("text") is not None)
    assert min(b - a for a, b in pairwise(placed)) >= 11


def test_levels_stand_at_their_values_and_widen_the_axis() -> None:
    svg = parsed([series([30.0, 20.0, 10.0])], log=True, levels=[("teacher", 1.0), ("real", 2.0), ("unknown", math.nan)])
    levels = {group.findtext("text"): group for group in svg.iter("g") if group.get("class") == "level"}
    assert set(levels) == {"teacher", "real"}
    down = np.array([[0, float(levels[name].find("line").get("y1"))] for name in ("teacher", "real")])
    assert read(svg, down, log=True)[:, 1] == pytest.approx([1, 2], rel=0.02)


def test_a_level_above_all_curves_is_within_the_chart() -> None:
    svg = parsed([series([15.0, 14.0, 16.0])], log=True, levels=[("the teacher's samples", 23.58)])
    level = next(group for group in svg.iter("g") if group.get("class") == "level")
    assert TOP <= float(level.find("line").get("y1")) <= HEIGHT - BOTTOM


def test_what_cannot_be_drawn_is_left_out() -> None:
    svg = parsed([series([1.0, math.nan, math.inf, 4.0, -1.0, 0.0, 2.0])], log=True)
    line = read(svg, points(next(svg.iter("polyline"))), log=True)
    assert line[:, 0] == pytest.approx([0, 3, 6], abs=0.1)
    assert chart([series([])], label="") is None
    assert chart([series([math.nan])], label="") is None
    assert chart([series([-1.0])], label="", log=True) is None


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0, 0.0], [-2.0, 3.0]])
def test_few_and_equal_values_can_be_drawn(log: bool, values: list[float]) -> None:
    svg = chart([series(values)], label="", log=log)
    if svg is None:
        assert log
        assert max(values) <= 0
    else:
        assert "nan" not in svg
        assert "inf" not in svg


def test_names_are_escaped() -> None:
    svg = parsed([series([1.0, 2.0], name="<i>&")], marks=[(0, "<b>")], levels=[("<u>", 1.5)])
    assert {"<b>", "<u>"} <= {text.text for text in svg.iter("text")}
    assert any("<i>&, step 1: 2" in (title.text or "") for title in svg.iter("title"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.00012, "0.00012"), (0.012345, "0.0123"), (1.0, "1"), (2.5, "2.5"), (4.567, "4.57"), (48.04, "48"),
        (312.4, "312"), (12400, "12,400"), (-3.25, "-3.25"), (1e-7, "1e-07"), (2.5e9, "2.5e+09"), (100, "100"),
        (math.nan, "not finite"), (-math.inf, "not finite"),
    ],
)  # fmt: skip
def test_numbers_as_text(value: float, text: str) -> None:
    assert number(value) == text


def test_shares_as_text() -> None:
    assert number(0.98765, percent=True) == "98.8 %"
    assert number(1, percent=True) == "100.0 %"
