"""From two runs to a page, and from answers to a preference."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from disback_ray import load_run
from disback_ray.pictures import image_grid
from disback_ray.study.page import render
from disback_ray.study.pairs import Key


@pytest.fixture(scope="module")
def other(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ends elsewhere."""
    out: Path = tmp_path_factory.mktemp("other") / "run"
    tiny.run("digits", out, seed=1)
    return out


def test_a_study_of_two_runs(digits: Path, other: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "study"
    said = command("study", str(digits), str(other), "--n", "12", "--seed", "5", "--out", str(out))
    assert (said.status, said.out, said.err) == (0, f"{out}/study.html\n", "")
    page = (out / "study.html").read_text()
    key = Key.from_json((out / "key.json").read_text(), where="")
    assert key.models == (str(digits), str(other))
    assert str(digits) not in page, "blinded"
    assert str(other) not in page
    assert "://" not in page, "self-contained"

    shown = json.loads(re.search(r"const pairs = (\[.*\]);", page).group(1))  # type: ignore[union-attr]
    drawn = [load_run(run).generate(12, seed=5) for run in (digits, other)]
    for pair, (sample, first_is_left) in zip(shown, zip(key.order, key.first_is_left, strict=True), strict=True):
        left, right = drawn if first_is_left else drawn[::-1]
        for side, samples in (("left", left), ("right", right)):
            assert base64.b64decode(pair[side].partition(",")[2]) == image_grid(samples[sample][None])
        assert pair["caption"] == f"class {sample % 10}"

    choices = ["left" if first_is_left else "right" for first_is_left in key.first_is_left]
    rows = [{"pair": pair, "choice": choice, "seconds": 1.0} for pair, choice in enumerate(choices)]
    (tmp_path / "answers.json").write_text(json.dumps({"study": key.study, "answers": rows}))
    said = command("study", "--score", str(tmp_path / "answers.json"), "--out", str(out))
    assert said.status == 0
    assert said.out.startswith(f"{digits} is preferred to {other} in 100.0 % of 12 decided pairs")


def test_what_can_t_be_compared(digits: Path, other: Path, ring8: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "study"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, says in [
        ([str(digits)], "two different runs"),
        ([str(digits), str(digits)], "two different runs"),
        ([str(digits), str(other), "--score", "x"], "two different runs"),
        ([str(digits), str(tmp_path)], "no run of disback-ray"),
        ([str(digits), str(other), "--n", "1"], "--n 1"),
        ([str(digits), str(ring8)], "10 classes and"),
        ([str(digits), str(other), "--out", str(tmp_path / "full")], "not empty"),
        ([str(digits), str(other), "--prompts", str(tmp_path / "full" / "file")], "takes no prompts"),
        (["--score", "x", "--prompts", "file"], "two different runs"),
        (["--score", "x"], "no study is there"),
    ]:
        said = command("study", *arguments, *([] if "--out" in arguments else ["--out", str(out)]))
        assert said.status == 2
        assert says in said.complaint
        assert not out.exists()


def test_a_copy_of_a_run_is_no_other_model(digits: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "copy")
    said = command("study", str(digits), str(tmp_path / "copy"), "--n", "4", "--out", str(tmp_path / "study"))
    assert (
        said.complaint
        == f"{digits} and {tmp_path}/copy make the very same pictures: nobody can prefer one; give two different models"
    )
    assert not (tmp_path / "study").exists()


def test_captions_are_escaped() -> None:
    key = Key("s", ("a", "b"), 0, (0,), (True,))
    png = image_grid(torch.zeros(1, 1, 8, 8))
    page = render(key, [png], [png], ["</script><script>alert(1)</script>"], side=8)
    assert page.count("<script>") == 1
    assert "alert(1)</script>" not in page
