"""docs/own-models.md: its example is run as it is written."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "own-models.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_example_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]) -> None:
    (net,) = blocks("python")
    assert len([line for line in net.splitlines() if line.strip()]) <= 10, "ten lines"
    recipe = next(block for block in blocks("yaml") if "my_nets" in block)
    (tmp_path / "my_nets.py").write_text(net)
    (tmp_path / "mine.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    import my_nets  # type: ignore[import-not-found]

    try:
        torch.manual_seed(0)
        safetensors.torch.save_file(my_nets.Net(32).state_dict(), "net.safetensors")
        commands = next(block for block in blocks("console") if "mine.yaml" in block)
        for line in commands.splitlines():
            said = command(*line.removeprefix("$ disback-ray ").split())
            assert said.status == 0, said.err
        assert (tmp_path / "mine.png").exists()
        assert (tmp_path / "runs" / "mine" / "report.html").exists()
        shutil.copytree("runs/mine", "runs/other")
        asked = ("study", "runs/mine", "runs/other", "--n", "2")
        assert "the module my_nets:Net" in command(*asked).complaint
        trusted = command(*asked, "--trust-modules").complaint
        assert trusted == "runs/mine and runs/other make the very same pictures: nobody can prefer one; give two different models"
    finally:
        del sys.modules["my_nets"]


def test_the_options_on_the_page_are_those_of_the_command(command: Callable[..., Any]) -> None:
    known = command("teacher", "train", "--help").out
    lines = [line for block in blocks("console") for line in block.splitlines() if "teacher train" in line]
    assert lines
    for option in re.findall(r"--[a-z-]+", " ".join(lines)):
        assert option in known


def test_the_recipe_of_images_reads(tmp_path: Path) -> None:
    from disback_ray.config import load_recipe

    rest = yaml.safe_load(next(block for block in blocks("yaml") if "my_nets" in block))
    for key in ("data", "teacher", "student"):
        del rest[key]
    images = yaml.safe_load(next(block for block in blocks("yaml") if "kind: images" in block))
    (tmp_path / "images.yaml").write_text(yaml.safe_dump(rest | images))
    assert load_recipe(str(tmp_path / "images.yaml")).data.path == str(tmp_path / "FOLDER")
