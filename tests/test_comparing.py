"""`disback-ray compare` on tiny runs: what differs between the arms, and that a second call goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from disback_ray import comparing
from disback_ray.comparison.told import Goal, lines
from disback_ray.errors import ConfigError


@pytest.fixture(scope="module")
def compared(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    goals = [Goal.parse("disback:100:0"), Goal.parse("disback:1e-6:2")]
    comparing.compare(
        "ring8", seeds=1, out=str(folder), overrides=tiny.settings("ring8"), goals=goals, every=4, say=lambda _: None
    )
    return folder


def test_the_arms_differ_in_the_path_alone(compared: Path) -> None:
    runs = {arm: compared / "seed-0" / arm for arm in ("baseline", "warm", "disback")}
    ends = {arm: sorted(file.name for file in run.glob("path/*.safetensors")) for arm, run in runs.items()}
    assert ends == {"baseline": [], "warm": ["node-1.safetensors"], "disback": [f"node-{n}.safetensors" for n in (1, 2, 3)]}
    assert (runs["warm"] / "path/node-1.safetensors").read_bytes() == (runs["disback"] / "path/node-3.safetensors").read_bytes()
    targets = {arm: pq.read_table(run / "metrics.parquet").to_pylist() for arm, run in runs.items()}
    nodes = {arm: [row["node"] for row in rows if row["stage"] == "backtracking"] for arm, rows in targets.items()}
    assert nodes == {"baseline": [0] * 12, "warm": [0] * 12, "disback": [2] * 4 + [1] * 4 + [0] * 4}
    first = {arm: json.loads((run / "summary.json").read_text())["metrics"]["untrained"] for arm, run in runs.items()}
    assert first["baseline"] == first["warm"] == first["disback"]


def test_figures_and_goals_are_written(compared: Path) -> None:
    page = json.loads((compared / "comparison.json").read_text())
    assert (page["benchmark"], page["facts"]["figure"], page["facts"]["arms"]) == (
        "compare", "sliced_wasserstein", ["baseline", "warm", "disback"],
    )  # fmt: skip
    judged = {result["name"]: result["met"] for result in page["results"] if result["goal"]}
    faster = "disback, times faster than baseline to sliced_wasserstein"
    assert judged == {f"{faster} 100": True, f"{faster} 1e-06 (0 of 1 pairs)": False}
    charged = {result["name"]: result["value"] for result in page["results"] if result["name"].endswith("100")}
    assert charged["baseline, charged steps to sliced_wasserstein 100"] == 0
    assert charged["warm, charged steps to sliced_wasserstein 100"] == pytest.approx(8 * page["facts"]["recording_cost"])
    assert "comparison" not in (compared / "comparison.html").read_text().partition("<body>")[0].partition("<title>")[0]


def test_goals_are_told_on_the_terminal(compared: Path, tiny: Any) -> None:
    goals = [Goal.parse("disback:100:0"), Goal.parse("disback:1e-6:2")]
    found, _ = comparing.compare(
        "ring8", seeds=1, out=str(compared), overrides=tiny.settings("ring8"), goals=goals, every=4, say=lambda _: None
    )
    told = [line for line in lines(found, goals) if line.startswith("goal ")]
    assert told == [
        "goal met: disback ≥ 0 × to 100", "goal missed: disback ≥ 2 × to 1e-06",
    ]  # fmt: skip


def test_a_second_call_goes_on(compared: Path, tiny: Any) -> None:
    before = {file: file.stat().st_mtime_ns for file in compared.glob("seed-0/**/*") if file.is_file()}
    said: list[str] = []
    comparing.compare("ring8", seeds=1, out=str(compared), overrides=tiny.settings("ring8"), every=4, say=said.append)
    assert [line.partition(":")[0] for line in said] == ["1 of 3", "2 of 3", "3 of 3"]
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_figures_of_two_kinds_are_not_held_against_each_other() -> None:
    one, other = {"features": "pixels", "reference": "a"}, {"features": "pixels", "reference": "b"}
    assert comparing._of_one_kind({}, one, "seed-0/warm") == comparing._of_one_kind(one, one, "seed-0/warm") == one
    with pytest.raises(ConfigError, match="seed-0/warm: its reference: b; of the runs before: a: such figures don't compare"):
        comparing._of_one_kind(one, other, "seed-0/warm")


def test_ctrl_c_says_how_to_go_on(compared: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    said: list[str] = []
    monkeypatch.setattr(comparing, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparing.compare("ring8", seeds=1, out=str(compared), overrides=tiny.settings("ring8"), every=4, say=said.append)
    assert said == ["stopped at seed 0, baseline; what has been played is kept, and the same command goes on"]


def test_a_run_s_own_folder_is_no_comparison_s(compared: Path, tiny: Any) -> None:
    with pytest.raises(ConfigError, match="seed-0/warm: a run lies there"):
        comparing.compare("ring8", seeds=1, out=str(compared / "seed-0" / "warm"), overrides=tiny.settings("ring8"))


def test_fresh_plays_all_anew(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    said: list[str] = []
    folder = tmp_path / "comparison"
    folder.mkdir()
    (folder / "comparison.json").touch()

    def played(*args: Any, fresh: bool, **kwargs: Any) -> None:
        asked.append(fresh)
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run", played)
    for fresh in (True, False):
        with pytest.raises(KeyboardInterrupt):
            comparing.compare("ring8", out=str(folder), overrides=tiny.settings("ring8"), fresh=fresh, say=said.append)
        assert (folder / "comparison.json").exists() is not fresh
        (folder / "comparison.json").touch()
    assert asked == [True, False]
    assert [line.partition("kept, and ")[2] for line in said] == [
        "the same command, without --fresh, goes on", "the same command goes on",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "options", "complaint"),
    [
        (["recording.steps=0", "recording.at=null", "backtracking.steps_per_node=1"], {}, "records no path"),
        ([], {"seeds": 0}, "--seeds 0"),
        ([], {"every": 0}, "--every 0: at least one"),
        ([], {"levels": [0.3, float("nan")]}, "--levels nan: expected numbers above 0"),
        ([], {"levels": [-1.0]}, "--levels -1: expected"),
        ([], {"levels": [float("inf")]}, "--levels inf: expected"),
        ([], {"goals": [Goal("auto", 0.1, 2.0)]}, "--goal: auto: not among"),
        (["backtracking.steps=40", "backtracking.steps_per_node=8"], {"arms": ["auto"]}, "path.trial: 40: has to end before"),
    ],
)
def test_what_cant_be_compared_is_said_first(
    settings: list[str], options: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        comparing.compare("ring8", out=str(tmp_path), overrides=settings, **options)
    for goal in ("fast", "disback:nan:nan", "disback:-1:2", "disback:0:2", "disback:0.3:inf", "disback:0.3:-2"):
        with pytest.raises(ConfigError, match=f"--goal {goal}: expected"):
            Goal.parse(goal)
    assert not list(tmp_path.iterdir())


def test_the_auto_arm_at_the_size_of_a_test(tmp_path: Path) -> None:
    found, _ = comparing.compare("ring8", arms=["auto"], seeds=1, out=str(tmp_path), tiny=True, say=lambda _: None)
    assert found.arms == ("baseline", "warm", "auto")
    (auto,) = found.of("auto")
    assert auto.steps[-1] == 2
    assert auto.tried


def test_an_arm_that_ends_in_nan_has_never_come_there(compared: Path, tiny: Any, tmp_path: Path) -> None:
    """It doesn't end the comparison."""
    shutil.copytree(compared, tmp_path / "compared")
    said: list[str] = []
    found, where = comparing.compare(
        "ring8", seeds=1, out=str(tmp_path / "compared"), overrides=tiny.settings("ring8"), every=4, levels=[1e-3], say=said.append,
        variants={"wild": ["backtracking.generator.lr=1e30", "student.ema=0"]},
    )  # fmt: skip
    assert "wild: the " in said[-1]
    assert " NaN or Inf at step " in said[-1]
    assert found.at("wild", 1e-3).unfinished == 1
    assert "wild, seed 0: never finished: the " in (tmp_path / "compared/comparison.html").read_text()
    assert len(where.read_json(comparing.FIGURES)["facts"]["lost"]) == 1
