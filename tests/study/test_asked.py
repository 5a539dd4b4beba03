"""What the two models of a study are asked: the same prompt with the same noise on both sides, or a line that says why not."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor

from disback_ray import model_images
from disback_ray.errors import ConfigError
from disback_ray.model import Model
from disback_ray.pictures import image_grid
from disback_ray.storage import Folder
from disback_ray.study import asked
from disback_ray.study.making import make
from disback_ray.study.pairs import Key

TEXTS = ("a cat", "</script><b>two dogs", "an old mill", "the sea", "a cat")


@dataclass
class Painter:
    """Paints one colour, which its name, the seed, the sample's number and its prompt decide. classes: the prompts it was trained with."""

    name: str
    prompts: str = ""
    classes: int = 0
    pixels: int = 8
    drawn: str = "no steps"

    @property
    def text_network(self) -> Any:
        return SimpleNamespace(pixels=self.pixels, prompts=self.prompts)

    def generate(
        self, n: int, *, seed: int = 0, labels: Any = None, first: int = 0, prompts: Sequence[str] | None = None
    ) -> Tensor:
        assert prompts is not None
        assert len(prompts) == n
        colours = [crc32(f"{self.name} {seed} {first + i} {text}".encode()) % 256 for i, text in enumerate(prompts)]
        return (torch.tensor(colours) / 127.5 - 1).view(n, 1, 1, 1).expand(n, 3, self.pixels, self.pixels)


@pytest.fixture(autouse=True)
def _any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "check_heard", lambda network, prompts: None)
    monkeypatch.setattr(model_images, "PART", 2)


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Painter]:
    def painter(name: str, *texts: str, kept: bool = True) -> Painter:
        if kept:
            (Folder.at(tmp_path) / name).write_json("texts.json", texts)
        return Painter(name, (Folder.at(tmp_path) / name).uri, len(texts))

    return painter


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS))
    return str(tmp_path / "prompts.txt")


def captions(a: Any, b: Any, *, pairs: int | None = None, prompts: str | None = None) -> tuple[str, ...]:
    return asked.ask({"runs/a": a, "runs/b": b}, pairs=pairs, prompts=prompts).captions


@pytest.mark.parametrize("pairs", [None, 3])
def test_each_prompt_is_a_pair_of_the_same_noise(file: str, tmp_path: Path, pairs: int | None) -> None:
    models: dict[str, Model] = {"runs/a": Painter("a"), "runs/b": Painter("b")}
    make(models, Folder.at(tmp_path / "study"), seed=7, pairs=pairs, prompts=file)
    page, key = (
        (tmp_path / "study" / "study.html").read_text(),
        Key.from_json((tmp_path / "study" / "key.json").read_text(), where=""),
    )
    shown = json.loads(re.search(r"const pairs = (\[.*\]);", page).group(1))  # type: ignore[union-attr]
    texts = TEXTS[:pairs]
    assert sorted(key.order) == list(range(len(texts)))
    drawn = [model.generate(len(texts), seed=7, prompts=texts) for model in models.values()]
    for pair, sample, first_is_left in zip(shown, key.order, key.first_is_left, strict=True):
        assert pair["caption"] == texts[sample]
        for side, samples in zip(("left", "right"), drawn if first_is_left else drawn[::-1], strict=True):
            assert base64.b64decode(pair[side].partition(",")[2]) == image_grid(samples[sample][None])
    assert "</script><b>" not in page, "escaped"


def test_without_a_file_they_are_asked_what_they_were_trained_with(trained: Callable[..., Painter]) -> None:
    texts = [f"number {i}" for i in range(10)]
    run, other, pipeline = trained("run", *texts), trained("other", *texts), Painter("pipeline")
    assert captions(run, other, pairs=5) == tuple(texts[::2])
    assert captions(pipeline, run) == tuple(5 * texts)
    for a, b, says in [
        (run, trained("more", *texts, "another"), "runs/a and runs/b were trained with different prompts: give --prompts FILE"),
        (run, trained("lost", *texts, kept=False), "runs/b: the texts of its prompts aren't kept in "),
        (pipeline, Painter("pipeline2"), "runs/a and runs/b draw what a prompt says: give --prompts FILE"),
    ]:
        with pytest.raises(ConfigError, match=says):
            captions(a, b)


def test_what_can_t_be_asked_is_said_before_anything_is_drawn(file: str, tmp_path: Path) -> None:
    painter, deaf = Painter("a"), SimpleNamespace(text_network=None, classes=3)
    (tmp_path / "one.txt").write_text("a cat")
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (painter, {"prompts": file, "pairs": 6}, "--n 6: .*prompts.txt holds 5 prompts"),
        (painter, {"prompts": str(tmp_path / "one.txt")}, "--n 2: .*one.txt holds 1 prompts"),
        (painter, {"prompts": file, "pairs": 1}, "--n 1: at least 2"),
        (Painter("b", pixels=16), {"prompts": file}, "runs/a makes pictures of 8 × 8, runs/b of 16 × 16"),
        (deaf, {"prompts": file}, "--prompts .*prompts.txt: runs/b takes no prompts"),
        (deaf, {}, "runs/a takes prompts and runs/b takes none"),
    ]
    for other, options, says in refused:
        with pytest.raises(ConfigError, match=says):
            captions(painter, other, **options)
