"""Looks at real runs: the columns that they leave, the bounds, and the alarms of one that really goes wrong."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disback_ray import pictures

LOOKED = {"mismatch", "fake_mismatch", "spread", "gap_0.2"}


@pytest.mark.parametrize("name", ["ring8", "digits"])
def test_each_look_leaves_its_columns(name: str, tiny: Any, request: pytest.FixtureRequest) -> None:
    out: Path = request.getfixturevalue(name)
    for row in tiny.rows(out):
        looked = row["stage"] == "backtracking" and row["step"] in ((4, 5, 8, 10, 12) if name == "ring8" else (4, 8, 10, 12))
        assert all((row[column] is not None) == looked for column in LOOKED), row
        assert (row["gap_5"] is not None) == (looked and name == "digits"), "beyond the noise that ring8's generator sees"
    found = tiny.summary(out)
    assert set(found["bounds"]) == {"mismatch", "spread"}
    assert found["bounds"]["mismatch"] > 0
    assert found["verdict"].endswith(".")
    page = (out / "report.html").read_text()
    for title in ("Score difference on held noise", "Mismatch degree", "Spread"):
        assert f"{title}, over steps" in page
    assert found["verdict"].split(":")[0] in page


def test_a_run_that_collapses_and_diverges_says_so_while_it_runs(
    tiny: Any, ring8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """A hundred times too high a rate for a student that is the teacher's network."""
    monkeypatch.setattr(pictures, "_png", lambda figure: b"\x89PNG")
    wrong = ["student.network=teacher", "student.sigma_init=2", "student.ema=0", "backtracking.generator.lr=0.03"]
    wrong += ["teacher.exact_score=true", "backtracking.steps=20", "evaluation.every=1"]
    said = command(*tiny.arguments("ring8", tmp_path / "run", "--in-process", *(w for s in wrong for w in ("--set", s))))
    assert said.status == 0, said.err
    found = tiny.summary(tmp_path / "run")
    kinds = [alarm["kind"] for alarm in found["alarms"]]
    assert "divergence" in kinds
    assert "collapse" in kinds
    for alarm in found["alarms"]:
        assert f"step {alarm['step']}: {alarm['text']}" in said.err
        assert f"Step {alarm['step']}: {alarm['text']}" in html.unescape((tmp_path / "run" / "report.html").read_text())
    assert found["verdict"].startswith(("Diverged: ", "Collapsed: "))
    assert found["verdict"] in said.out


def test_the_mismatch_of_a_run(command: Callable[..., Any], ring8: Path, digits: Path, tmp_path: Path) -> None:
    said = command("mismatch", str(ring8), "--n", "400", "--sigma", "0.5", "--json", str(tmp_path / "m.json"))
    assert said.status == 0, said.err
    values = {
        line[:22].strip(): float(line[22:].split()[0]) for line in said.out.splitlines() if not line.startswith(("sam", "note"))
    }
    assert values["mismatch"] == values["at σ 0.5"] > 0
    assert values["ideal lower bound"] > 0
    assert ("note: the run is below the bound" in said.out) == (values["mismatch"] < values["ideal lower bound"])
    assert values["modes of the data"] == 8
    assert "read it beside modes and spread" in said.out
    assert (tmp_path / "m.json").exists()
    said = command("mismatch", str(digits), "--n", "100", "--sigma", "1")
    assert "ideal lower bound" in said.out
    assert "levels of noise above 0" in command("mismatch", str(ring8), "--sigma", "-1").complaint
    assert "no run of disback-ray" in command("mismatch", str(tmp_path)).complaint
    elsewhere = command("mismatch", str(ring8), "--n", "10", "--storage", str(tmp_path / "other")).complaint
    assert elsewhere.startswith(f"{ring8}: its teacher isn't at {tmp_path}/other/teachers/")
