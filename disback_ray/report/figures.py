"""The figures of a run in words and in a table: what each measures, which way is better, and how far the generator came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disback_ray.report.chart import number

Figures = Mapping[str, Any]  # the summary's metrics: {"generator": {"frechet": 2.4, ...}, ..., "nodes": {"3": {...}}}


@dataclass(frozen=True)
class Measure:
    """One figure of quality: its name, which way is better, and what it says in plain words."""

    name: str
    better: str
    meaning: str
    percent: bool = False

    @property
    def title(self) -> str:
        """The name as it begins a line."""
        return self.name[0].upper() + self.name[1:]

    def show(self, value: float | None) -> str:
        """The figure as text; a dash where it was not taken."""
        return "–" if value is None else number(value, percent=self.percent)


MEASURES = {
    "frechet": Measure(
        "Fréchet distance",
        "lower",
        "how far the features of the samples are from those of the real images; 0 is the same",
    ),
    "accuracy": Measure("accuracy", "higher", "how many samples the judge takes for the class that was asked for", percent=True),
    "sliced_wasserstein": Measure(
        "sliced Wasserstein distance", "lower", "how far points have to be moved to become the data, in the unit of the points"
    ),
    "energy_distance": Measure("energy distance", "lower", "another distance between the two sets of points; 0 is the same"),
    "modes": Measure("modes", "higher", "how many of the data's clusters hold at least a quarter of the points they are due"),
    "in_modes": Measure("in modes", "higher", "how many samples lie within three standard deviations of a cluster", percent=True),
}
MAIN = {"frechet": "real images", "sliced_wasserstein": "data"}  # what a run is judged by, and its distance from what


@dataclass(frozen=True)
class Row:
    """One line of the table of figures."""

    name: str
    note: str
    cells: tuple[str, ...]


def taken(figures: Figures) -> list[str]:
    """The names of the figures that any part of the run has, in the order in which they are shown."""
    parts = [part for name, part in figures.items() if name != "nodes"] + list((figures.get("nodes") or {}).values())
    return [name for name in MEASURES if any(part and part.get(name) is not None for part in parts)]


def value(figures: Figures, part: str, name: str | None) -> float | None:
    """One figure of one part; None where an unfinished run has none."""
    found = (figures.get(part) or {}).get(name)
    return None if found is None else float(found)


def headline(figures: Figures) -> list[str]:
    """What came out, in sentences."""
    main = next((name for name in taken(figures) if name in MAIN), None)
    reached = value(figures, "generator", main)
    if main is None or reached is None:
        return ["The final generator has not been measured."]
    text = f"In one step, the generator's samples are at a {MEASURES[main].name} of {number(reached)} from the {MAIN[main]}"
    others = [
        f"{words} at {number(other)}"
        for part, words in (("teacher", "the teacher's, in many steps, are"), ("untrained", "the untrained generator's were"))
        if (other := value(figures, part, main)) is not None
    ]
    sentences = [f"{text}; {', and '.join(others)}." if others else f"{text}."]
    if (accuracy := value(figures, "generator", "accuracy")) is not None:
        sentences.append(f"{MEASURES['accuracy'].show(accuracy)} are taken for the class that was asked for.")
    if (modes := value(figures, "generator", "modes")) is not None:
        sentences.append(f"They cover {number(modes)} of the data's modes.")
    if (inside := value(figures, "generator", "in_modes")) is not None:
        sentences.append(f"{MEASURES['in_modes'].show(inside)} of them lie in a mode.")
    return sentences


def tiles(figures: Figures) -> list[tuple[str, str]]:
    """The few figures to see first, each with its caption."""
    main = next((name for name in taken(figures) if name in MAIN), None)
    wanted = [(part, main, f"{MEASURES[main].title}, {part}") for part in ("generator", "teacher", "untrained") if main]
    wanted += [("generator", "accuracy", "taken for what was asked for"), ("generator", "modes", "modes covered")]
    wanted += [("generator", "in_modes", "of the samples lie in a mode")]
    return [
        (MEASURES[name].show(found), caption)
        for part, name, caption in wanted
        if (found := value(figures, part, name)) is not None
    ]


def rows(figures: Figures, shown: Sequence[str]) -> list[Row]:
    """The table, from the start of the run to its end. shown: the columns."""
    nodes = sorted((figures.get("nodes") or {}).items(), key=lambda item: -int(item[0]))
    parts = [
        ("Untrained generator", "where it began", figures.get("untrained")),
        *((f"Generator, end of {node_name(int(node))}", "", part) for node, part in nodes),
        ("Generator", "the result, in one step", figures.get("generator")),
        ("Teacher", "its model, in many steps", figures.get("teacher")),
        ("Real data", "against other real data", figures.get("real_halves")),
    ]
    return [Row(name, note, tuple(MEASURES[key].show(part.get(key)) for key in shown)) for name, note, part in parts if part]


def node_name(node: int) -> str:
    """Node 0 of the path is the teacher itself."""
    return "teacher" if node == 0 else f"node {node}"
