"""The page read back: that it says what the run did, needs nothing from elsewhere, and takes no text for markup."""

import base64
import math
import re
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest
import torch

from disback_ray.pictures import image_grid
from disback_ray.report import render
from disback_ray.run_folder import LOOKED

CONFIG = "recipe:\n  name: digits # <&>\n"
PICTURE = image_grid(torch.zeros(1, 1, 8, 8))
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, text, and the cells of tables; raises where tags don't close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def table(*, steps: int = 12, recorded: int = 4, **measured: list[float | None]) -> pa.Table:
    """Rows as a run writes them. measured: columns for the backtracking steps."""
    rows: list[dict[str, Any]] = [
        {"stage": "recording", "step": step + 1, "node": 0, "seconds": 0.1 * step, "fake_loss": 1 / (1 + step)}
        for step in range(recorded)
    ]
    for step in range(steps):
        row = {"stage": "backtracking", "step": step + 1, "node": 1 if step < 5 else 0, "seconds": 1.0 + step}
        row |= {"fake_loss": 0.5, "field_norm": 0.3, "generator_grad_norm": 1.0, "fake_grad_norm": 2.0}
        rows.append(row | {name: values[step] for name, values in measured.items()})
    numbers = ["seconds", "fake_loss", "field_norm", "generator_grad_norm", "fake_grad_norm", "frechet", "accuracy"]
    numbers += ["sliced_wasserstein", "energy_distance", "modes", "in_modes", *LOOKED]
    schema = pa.schema(
        [("stage", pa.string()), ("step", pa.int64()), ("node", pa.int64()), *((n, pa.float64()) for n in numbers)]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def every_fourth(values: list[float]) -> list[float | None]:
    return [values[(step + 1) // 4 - 1] if (step + 1) % 4 == 0 else None for step in range(12)]


@pytest.fixture
def images() -> dict[str, Any]:
    return {
        "recipe": "digits", "seed": 7, "status": "complete", "stages": {"teacher": 70.4, "recording": 2.0, "backtracking": 3661.0},
        "metrics": {
            "teacher": {"frechet": 1.0345, "accuracy": 0.987}, "untrained": {"frechet": 352.4, "accuracy": 0.102},
            "nodes": {"1": {"frechet": 48.04, "accuracy": 0.83}, "10": {"frechet": 93.1, "accuracy": 0.5}},
            "generator": {"frechet": 2.541, "accuracy": 0.9905}, "real_halves": {"frechet": 5.34},
        },
        "switches": [{"step": 0, "node": 10}, {"step": 3, "node": 1}, {"step": 5, "node": 0}, {"step": 900, "node": -1}],
        "roles": {
            "teacher/0": {"pid": 11, "node": "desk", "devices": ["cuda:0"]},
            "teacher/1": {"pid": 12, "node": "shelf", "devices": ["cuda:0", "cuda:1"]},
            "generator": {"pid": 13, "node": "desk", "devices": []},
        },
        "digest": "0123456789abcdef", "versions": {"torch": "2.13.0"},
        "pictures": [{"file": "samples/a.png", "title": "Untrained"}, {"file": "samples/b.png", "title": "Lost"}],
    }  # fmt: skip


def page_of(summary: dict[str, Any], metrics: pa.Table | None = None, pictures: dict[str, bytes] | None = None) -> Page:
    return Page(render(summary, CONFIG, table() if metrics is None else metrics, pictures or {}))


def test_figures_in_words_and_in_the_table(images: dict[str, Any]) -> None:
    page = page_of(images)
    assert "The run is complete." in page.text
    assert re.search(r"Fréchet distance of 2\.54 from the real images.* at 1\.03,.* at 352\.", page.text)
    assert "99.0 % are taken for the class" in page.text or "99.1 % are taken for the class" in page.text
    names = [row[0] for row in page.rows]
    assert names == [
        "", "Untrained generator", "Generator, end of node 10", "Generator, end of node 1", "Generator", "Teacher", "Real data",
    ]  # fmt: skip
    assert page.rows[0][1:] == ["Fréchet distance", "Accuracy"]
    assert page.rows[3][1:] == ["48", "83.0 %"]
    assert page.rows[6][1:] == ["5.34", "–"]
    assert "↓ lower is better" in page.text
    assert "↑ higher is better" in page.text


def test_what_the_figures_are_of_is_beside_them(images: dict[str, Any]) -> None:
    assert "pixels (none)" not in page_of(images).text
    kinds = {"features": "pixels (none), resizer none, 192 features", "reference": "pics.npz (0123)", "samples": "300"}
    text = page_of(images | {"measured_by": kinds}).text
    assert all(f"{what} {told}" in " ".join(text.split()) for what, told in kinds.items())


def test_curves_of_images(images: dict[str, Any]) -> None:
    page = page_of(images, table(frechet=every_fourth([90.0, 40.0, 3.0]), accuracy=every_fourth([0.3, 0.8, 0.99])))
    labels = [attributes.get("aria-label") for attributes in page.attributes("svg")]
    assert labels == [
        "Fréchet distance, over steps", "Accuracy, over steps", "Score difference, over steps",
        "Loss of the fake score, over steps", "Gradient norms, over steps", "Loss of the copy, over steps",
    ]  # fmt: skip
    for said in ("generator, step 0: 352", "generator, step 4: 90", "generator, step 12: 3", "teacher: 1.03"):
        assert said in page.text
    assert "step 3: node 1" in page.text
    assert "step 5: teacher" in page.text
    assert "step 900" not in page.text  # the plan goes on, the run did not come to it
    assert "expected to oscillate" in page.text


def test_each_curve_of_backtracking_has_the_switches_marked(images: dict[str, Any]) -> None:
    """Both losses, the Fréchet distance, what is seen on held noise: a jump is to be read beside the switch that made it."""
    looked = {name: every_fourth([3.0, 2.0, 1.0]) for name in ("frechet", "accuracy", *LOOKED)}
    html = render(images | {"bounds": {"mismatch": 1.0, "spread": 2.0}}, CONFIG, table(**looked), {})
    charts = re.findall(r'<svg class="chart".*?aria-label="(.*?), over steps">(.*?)</svg>', html, re.DOTALL)
    marks = {name: re.findall(r'<g class="mark"><title>(step .*?)</title>', chart) for name, chart in charts}
    assert marks.pop("Loss of the copy") == []
    assert set(marks) == {
        "Fréchet distance", "Accuracy", "Score difference on held noise", "Mismatch degree", "Spread",
        "Score difference", "Loss of the fake score", "Gradient norms",
    }  # fmt: skip
    first = marks["Fréchet distance"]
    assert first[:2] == ["step 5: teacher", "step 3: node 1"]
    assert all(found == first for found in marks.values()), marks


SENTENCES = {
    "Fréchet distance": "How far the features of the samples are from those of the real images",
    "Sliced Wasserstein distance": "How far points have to be moved to become the data",
    "Accuracy": "How many samples the judge takes for the class that was asked for",
    "Modes": "How many of the data's clusters hold at least a quarter of the points they are due",
    "In modes": "How many samples lie within three standard deviations of a cluster",
    "Score difference on held noise": "Root mean square of σ(s_φ − s_θ) at fixed σ, on noise that is the same at every look",
    "Mismatch degree": "Eq. (9), weighted by σ²: the teacher's score against the samples' own",
    "Spread": "How far two samples are apart: it should come to the level of real data and not fall again",
    "Score difference": "Root mean square of w(t)(s_φ − s_target), Eq. (8): all that the generator has of a loss. Expected to oscillate",
    "Loss of the fake score": "Denoising loss of s_φ on samples of the generator, Eq. (5). Expected to oscillate",
    "Gradient norms": "Of each step, before clipping",
    "Loss of the copy": "Denoising loss on samples of the untrained generator, Eq. (7)",
}


def test_each_curve_has_its_sentence(images: dict[str, Any]) -> None:
    """What to read from it, beside it; the names of its lines are none."""
    names = ("frechet", "sliced_wasserstein", "accuracy", "modes", "in_modes", *LOOKED)
    html = render(images, CONFIG, table(**{name: every_fourth([3.0, 2.0, 1.0]) for name in names}), {})
    figures = re.findall(r'<figure class="curve">\s*<h3>(.*?)</h3>.*?<figcaption>(.*?)</figcaption>', html, re.DOTALL)
    assert len(figures) == html.count('<svg class="chart"') == len(SENTENCES)
    for title, caption in figures:
        text = Page(re.sub(r'<span class="legend">.*?</span></span>', "", caption)).text
        assert text.startswith(SENTENCES[title]), (title, text)
        assert text.endswith(".")


def test_the_recording_has_its_own_chart(images: dict[str, Any]) -> None:
    html = render(images, CONFIG, table(), {})
    recording = html[html.index("Recording the path") :]
    assert "loss, step 4: 0.25" in recording
    assert "loss, step 4: 0.25" not in html[: html.index("Recording the path")]
    assert "loss, step 12: 0.5" not in recording


def test_points() -> None:
    figures = {"sliced_wasserstein": 0.061, "energy_distance": 0.004, "modes": 8.0}
    summary = {"recipe": "ring8", "status": "complete", "metrics": {"generator": figures, "teacher": figures}}
    page = page_of(summary, table(sliced_wasserstein=every_fourth([1.0, 0.5, 0.1]), modes=every_fourth([0.0, 4.0, 8.0])))
    assert "sliced Wasserstein distance of 0.061 from the data" in page.text
    assert "They cover 8 of the data's modes." in page.text
    assert page.rows[1] == ["Generator", "0.061", "0.004", "8"]
    assert "Fréchet" not in page.text
    assert "generator, step 8: 0.5" in page.text


def test_the_cast_by_machine_times_versions_digest_and_configuration(images: dict[str, Any]) -> None:
    text = page_of(images).text
    desk, shelf = text.index(" desk "), text.index(" shelf ")
    assert desk < text.index("teacher/0") < text.index("pid 13") < shelf < text.index("teacher/1") < text.index("cuda:1")
    for said in (
        "teacher: 1 min 10 s",
        "recording: 2 s",
        "backtracking: 1 h 1 min",
        "torch 2.13.0",
        "0123456789abcdef",
        "seed 7",
    ):
        assert said in text
    assert "name: digits # <&>" in text


def test_pictures_are_within_and_lost_ones_are_said_to_be(images: dict[str, Any]) -> None:
    page = page_of(images, pictures={"samples/a.png": PICTURE})
    (image,) = page.attributes("img")
    assert (image["alt"], image["width"], image["height"]) == ("Untrained", "68", "68")
    kind, _, data = (image["src"] or "").partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == PICTURE
    assert "not in the run's folder Lost" in page.text


def test_nothing_is_asked_from_elsewhere(images: dict[str, Any]) -> None:
    html = render(images, CONFIG, table(frechet=every_fourth([9.0, 4.0, 3.0])), {"samples/a.png": PICTURE})
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "poster", "action", "data", "xlink:href"):
                assert (tag, name) == ("img", "src")
                assert (value or "").startswith("data:image/png;base64,")
    assert "//" not in re.sub(r"data:image/png;base64,[^\"]*", "", html)
    assert "url(" not in html
    assert "@import" not in html


def test_text_is_never_markup() -> None:
    evil = "<script>alert(1)</script>\"'&"
    summary = {
        "recipe": evil, "seed": evil, "status": evil, "error": evil, "stages": {evil: 1.0},
        "metrics": {"generator": {"frechet": 1.0}}, "switches": [{"step": 0, "node": 3}],
        "roles": {evil: {"pid": evil, "node": evil, "devices": [evil]}}, "digest": evil, "versions": {evil: evil},
        "pictures": [{"file": "a.png", "title": evil}, {"file": evil, "title": ""}],
    }  # fmt: skip
    html = render(summary, evil, table(), {"a.png": PICTURE})
    page = Page(html)
    assert "<script" not in html
    assert page.text.count("<script>alert(1)</script>\"'&") >= 13
    assert page.attributes("img")[0]["alt"] == evil


@pytest.mark.parametrize("metrics", [pa.table({}), table(steps=0, recorded=0)])
def test_a_run_that_has_hardly_begun(metrics: pa.Table) -> None:
    page = page_of({"recipe": "digits", "seed": 0, "status": "interrupted"}, metrics)
    assert "interrupted" in page.text
    assert "The final generator has not been measured." in page.text
    assert "The run has no evaluation yet." in page.text
    assert not page.attributes("svg")
    assert not page.rows
    assert Page(render({}, "", metrics, {})).text


def test_a_run_interrupted_on_its_way(images: dict[str, Any]) -> None:
    images |= {"status": "interrupted", "digest": "", "pictures": []}
    images["metrics"] = {"teacher": images["metrics"]["teacher"], "generator": None, "nodes": None}
    page = page_of(images, table(steps=0))
    assert "its last step is 4 of recording." in page.text
    assert [row[0] for row in page.rows[1:]] == ["Teacher"]
    assert len(page.attributes("svg")) == 1
    assert "Digest" not in page.text
    page = page_of(images, table())
    assert "its last step is 12 of backtracking." in page.text


def test_a_run_that_failed_says_why(images: dict[str, Any]) -> None:
    images |= {"status": "failed", "error": "the score difference has NaN or Inf at step 12"}
    images["metrics"]["generator"] = {"frechet": math.nan}
    page = page_of(images, table(frechet=every_fourth([90.0, math.nan, math.inf])))
    assert "NaN or Inf at step 12" in page.text
    assert "not finite" in page.text
    assert "generator, step 4: 90" in page.text
    assert "step 8: not finite" not in page.text
