"""The benchmarks' figures: ratios, goals, the JSON that others read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.peak
from benchmarks import measured, median, options, publish


@pytest.mark.parametrize(
    ("asked", "ratio", "goal", "met"),
    [
        ({}, None, None, None),
        ({"baseline": 8.0}, 0.5, None, None),
        ({"baseline": 8.0, "at_most": 0.5}, 0.5, "<= 0.5", True),
        ({"baseline": 8.0, "at_most": 0.49}, 0.5, "<= 0.49", False),
        ({"baseline": 2.0, "at_least": 2.01}, 2.0, ">= 2.01", False),
        ({"at_least": 4.0}, None, ">= 4", True),
        ({"at_most": 3.0}, None, "<= 3", False),
    ],
)
def test_a_goal_is_for_the_ratio_and_without_a_baseline_for_the_value(
    asked: dict[str, float], ratio: float | None, goal: str | None, met: bool | None
) -> None:
    result = measured("it", 4.0, "s", **asked)
    assert (result.value, result.ratio, result.goal, result.met) == (4.0, ratio, goal, met)


def test_the_median_is_of_so_many() -> None:
    numbers = iter([9.0, 1.0, 2.0, 100.0])
    assert median(lambda: next(numbers), times=3) == 2.0


def test_the_table_and_the_json_hold_every_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [measured("fake_score", 1234.5, "MiB", baseline=2469.0, at_most=0.4), measured("step", 0.25, "s")]
    file = options("it").parse_args(["--json", str(tmp_path / "new" / "it.json")]).json
    publish("memory", results, file=file, batch=2)
    page = json.loads(file.read_text())
    assert page["results"] == [
        {"name": "fake_score", "value": 1234.5, "unit": "MiB", "baseline": 2469.0, "ratio": 0.5, "goal": "<= 0.4", "met": False},
        {"name": "step", "value": 0.25, "unit": "s", "baseline": None, "ratio": None, "goal": None, "met": None},
    ]
    assert (page["benchmark"], page["facts"], page["machine"]["cpus"] > 0) == ("memory", {"batch": 2}, True)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("1,234", "2,469", "0.5", "NO", "0.25", "batch: 2"))


def test_a_process_s_peak_is_its_own_and_not_that_of_whoever_began_it() -> None:
    held = b"x" * (100 << 20)
    said = subprocess.run(
        [sys.executable, "-c", "import peak; print(peak.peak_mib())"],
        cwd=Path(benchmarks.peak.__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(said.stdout) < 60
    assert benchmarks.peak.peak_mib() > len(held) / 2**20 + 60


def test_the_gpu_benchmark_s_one_process_needs_no_ray() -> None:
    """Where Ray can't be imported: `None` in sys.modules is what Python raises ImportError for."""
    script = "import sys; sys.modules['ray'] = None; from benchmarks import gpu; print(gpu.importlib.util.find_spec('ray'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "None\n", done.stderr
