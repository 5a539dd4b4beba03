"""Alarms and the verdict on synthetic curves: each rule fires where it says, and nowhere else."""

import math
from typing import Any

import pytest

from disback_ray.evaluation.alarms import alarms
from disback_ray.evaluation.verdict import verdict


def curve(**columns: list[float | None]) -> list[dict[str, Any]]:
    """Rows of looks, 10 steps apart."""
    length = max(map(len, columns.values()))
    return [{"step": 10 * (i + 1), **{name: values[i] for name, values in columns.items()}} for i in range(length)]


def found(looks: list[dict[str, Any]], **options: Any) -> list[tuple[str, int]]:
    return [(alarm.kind, alarm.step) for alarm in alarms(looks, **options)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"modes": [0, 2, 6, 8, 8, 8]}, []),
        ({"modes": [8, 8, 3, 8, 3, 8]}, []),  # a single look says nothing
        ({"modes": [2, 8, 8, 3, 3, 8]}, [("collapse", 50)]),
        ({"modes": [3, 1, 1, 1]}, []),  # of so few there is no telling
        ({"spread": [0.1, 0.9, 1.0, 0.55, 0.51]}, []),
        ({"spread": [0.1, 0.9, 1.0, 0.45, 0.4]}, [("collapse", 50)]),
        ({"spread": [1.0, 90, 3, 2, 1.1]}, []),  # of real data it is 2: what went beyond was no merit
        ({"frechet": [90, 40, 9, 12, 9, 14, 10]}, []),  # it oscillates
        ({"frechet": [90, 40, 9, 30, 25, 19]}, []),  # it is on its way back
        ({"frechet": [90, 40, 9, 60, 45, 36]}, []),
        ({"frechet": [90, 40, 9, 60, 45, 37]}, [("divergence", 60)]),  # so far away that its way back is no comfort
        ({"sliced_wasserstein": [1.376, 1.35, 1.45, 1.67, 1.59, 1.52, 1.48, 1.4, 1.3]}, []),  # ring8 with small rates begins so
        ({"gap_1": [0.01, 0.09, 0.08, 0.07, 0.06]}, []),  # where s_φ begins as the teacher
        ({"frechet": [90, 40, 9, 20, 30, 40]}, [("divergence", 60)]),
        ({"frechet": [90, 40, 9, 20, 30, math.nan]}, [("divergence", 60)]),
        ({"frechet": [None, 40, None, 9, 20, 30, 40]}, [("divergence", 70)]),
        ({"sliced_wasserstein": [1.4, 0.3, 0.2, 0.5, 0.6, 0.7], "gap_1": [1, 1, 1, 1, 1, 1]}, [("divergence", 60)]),
        ({"gap_1": [1.0, 0.5, 0.1, 0.3, 0.4, 0.5], "gap_5": [0.1] * 6}, [("divergence", 60)]),
        ({"fake_mismatch": [5, 5, 5, 5], "mismatch": [2, 2, 2, 2]}, [("lag", 30)]),
        ({"fake_mismatch": [5, 1, 5, 5], "mismatch": [2, 2, 2, 2]}, []),
        ({"fake_mismatch": [0.3] * 5, "mismatch": [0.15] * 5}, []),  # both near the bound of .1: converged
    ],
)
def test_each_rule(columns: dict[str, list[float | None]], expected: list[tuple[str, int]]) -> None:
    assert found(curve(**columns), lower_bound=0.1, real_spread=2.0) == expected


def test_a_lag_without_a_known_bound_is_judged_by_the_run_s_least() -> None:
    falling = curve(mismatch=[9.0, 1.0, 1.0, 9.0, 9.0, 9.0], fake_mismatch=[1.0, 0.5, 0.5, 10.0, 10.0, 10.0])
    assert found(falling) == [("lag", 60)]
    assert found(curve(mismatch=[1.0] * 5, fake_mismatch=[2.0] * 5)) == []


def test_a_run_that_flies_off_before_its_first_look_has_diverged() -> None:
    """What it was before training is the best that it had."""
    looks = curve(sliced_wasserstein=[3.0, 3.3, 3.2, 3.25, 3.3])
    assert found(looks) == []
    assert found(looks, start={"sliced_wasserstein": 1.4, "modes": 0.0}) == [("divergence", 30)]
    raised = alarms(looks, start=(start := {"sliced_wasserstein": 1.4}))
    assert verdict(looks, {"untrained": start}, raised).startswith(
        "Diverged: the sliced Wasserstein distance is at 3.2, 2.29 times its best, and does not come back: lower the rates"
    )
    lost = curve(modes=[3, 2, 2])
    assert found(lost, start={"modes": 7.0}) == [("collapse", 20)]
    raised = alarms(lost, start=(start := {"modes": 7.0, "sliced_wasserstein": 0.5}))
    lost = curve(modes=[3, 2, 2], sliced_wasserstein=[0.5, 0.5, 0.5])
    assert verdict(lost, {"untrained": start}, raised).startswith("Collapsed: modes covered fell from 7 to 2")


def test_what_came_back_has_not_collapsed_whatever_else_is_low() -> None:
    """The spread recovered; modes, of which there were never 4, are no alarm's; and once they are, the words are theirs."""
    looks = curve(sliced_wasserstein=[0.5] * 7, spread=[2.0, 2.0, 0.8, 0.8, 1.6, 1.5, 1.5], modes=[0, 1, 3, 2, 1, 1, 1])
    raised = alarms(looks)
    assert [(alarm.kind, alarm.step) for alarm in raised] == [("collapse", 40)]
    assert verdict(looks, {}, raised).startswith("Settled: ")
    looks = curve(sliced_wasserstein=[0.5] * 7, spread=[2.0, 2.0, 0.8, 0.8, 1.6, 1.5, 1.5], modes=[8, 8, 8, 8, 8, 2, 2])
    assert verdict(looks, {}, alarms(looks)).startswith(
        "Collapsed: modes covered fell from 8 to 2; the generator makes less of what there is (alarm at step 40)."
    )


FIGURES = {"untrained": {"frechet": 100.0}, "teacher": {"frechet": 1.2}, "real_halves": {"frechet": 7.0}}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"frechet": [50.0, 5.0]}, "Too few looks at the generator to tell: 2, and 3 are needed"),
        ({"frechet": [50.0, 20.0, 10.0]}, "Still improving when it stopped: the Fréchet distance fell from 50 to 10"),
        ({"frechet": [50.0, 5.1, 5.0, 5.2]}, r"Settled: the Fréchet distance stays at 5.2, from 100 \(the teacher's is 1.2; "),
        ({"frechet": [50.0, 5.0, 5.6, 5.3]}, r"Settled: .* stays at 5.3"),  # so much is chance: real data is at 7 from real data
        ({"frechet": [50.0, 6.0, 5.6, 5.35]}, r"Settled: .* stays at 5.35"),
        ({"frechet": [99.0, 98.0, 97.0]}, r"Settled: .* 97, hardly better than at the start, 100 "),
        (
            {"frechet": [150.0, 151.0, 150.0]},
            r"Settled: .* 150 \(.* It ends worse than it began: .* 150, 1.5 times the 100 at the start",
        ),
        ({"frechet": [50.0, 5.0, 8.0, 6.0]}, "Unsettled: the Fréchet distance moved between 5 and 8"),
        (
            {"frechet": [50.0, 5.0, 20.0, 30.0, 40.0]},
            r"Diverged: the Fréchet distance is at 40, 8 times its best.* \(from step 50 on\)",
        ),
        ({"frechet": [5.0, 20.0, 30.0, 40.0, 5.0, 5.0, 5.0]}, "Settled"),  # it came back
        ({"modes": [8, 8, 2, 2], "sliced_wasserstein": [0.2, 0.2, 0.3, 0.3]}, "Collapsed: modes covered fell from 8 to 2"),
        ({"modes": [8, 2, 2, 8], "sliced_wasserstein": [0.3, 0.2, 0.2, 0.2]}, "Settled"),
        ({"gap_1": [1.0, 0.2, 0.2, 0.2]}, "Settled: the score difference stays at 0.2, from 1"),
    ],
)
def test_the_verdict(columns: dict[str, list[float | None]], said: str) -> None:
    import re

    looks = curve(**columns)
    line = verdict(looks, FIGURES, alarms(looks))
    assert re.match(said, line), line
    assert line.count("\n") == 0
    assert line.endswith(".")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"frechet": [900.0, 300.0]}, "Too few looks at the generator to tell: 2"),
        (
            {"frechet": [390.0, 350.0, 300.0]},
            "Coming back when it stopped: the Fréchet distance fell from 390 to 300 in three looks",
        ),
        ({"frechet": [300.0, 300.0, 300.0]}, "Settled: the Fréchet distance stays at 300 (the teacher's is 1.2"),
        ({"frechet": [300.0, 200.0, 300.0]}, "Unsettled: the Fréchet distance moved between 200 and 300"),
        (
            {"frechet": [5e5, 5e4, 5e3, 300.0]},
            "Diverged: the Fréchet distance is at 5e+03, 50 times its best, and stays over 4 times that",
        ),
        ({"frechet": [300.0] * 4, "modes": [8, 8, 2, 2]}, "Collapsed: modes covered fell from 8 to 2"),
    ],
)
def test_each_verdict_says_when_the_run_ends_worse_than_it_began(columns: dict[str, list[float | None]], said: str) -> None:
    looks = curve(**columns)
    line = verdict(looks, FIGURES, alarms(looks, start=FIGURES["untrained"]))
    assert line.startswith(said)
    assert line.endswith(". It ends worse than it began: the Fréchet distance is 300, 3 times the 100 at the start.")
    assert "train longer" not in line


def test_an_end_that_is_worse_than_the_first_look_where_no_start_is_known() -> None:
    for last, said in ((1.11, False), (1.12, True)):
        line = verdict(curve(gap_1=[1.0, 1.11, last]), {}, [])
        assert (" It ends worse than it began: the score difference is 1.12, 1.12 times the 1 at the first look." in line) == said
    assert verdict(curve(frechet=[5.0, 5.0, math.nan]), {}, []).endswith("distance is nan, 5 at the first look.")
    assert verdict(curve(gap_1=[0.0, 1.0, 1.0]), {}, []).endswith("the score difference is 1, 0 at the first look.")
    assert verdict(curve(gap_1=[1.0, 2.0]), {}, [], lost=9).endswith(
        "the score difference is 2, 2 times the 1 at the first look."
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([100.0, 99.0, 89.5], "Still improving"),
        ([100.0, 99.0, 90.95], "Settled"),
        ([100.0, 100.0, 110.5], "Settled"),
        ([100.0, 100.0, 111.5], "Unsettled"),
        ([100.0, 109.5, 100.0], "Settled"),
        ([100.0, 111.5, 100.5], "Unsettled"),
    ],
)
def test_ten_per_cent_are_the_border(values: list[float | None], said: str) -> None:
    figures = {"untrained": {"frechet": 1000.0}}
    assert verdict(curve(frechet=values), figures, []).startswith(said)


def test_a_fake_score_that_lags_is_said_in_the_verdict() -> None:
    """Behind what else it says; and where it caught up, that too. By the bound that the alarm went by: without it 2 were none."""
    lags = " The fake score lags (from step 30 on): "
    steady: dict[str, list[float | None]] = {"frechet": [50.0, 5.1, 5.0, 5.2, 5.1], "mismatch": [2.0] * 5}
    looks = curve(**steady, fake_mismatch=[5.0] * 5)
    raised = alarms(looks, lower_bound=0.1)
    line = verdict(looks, FIGURES, raised, lower_bound=0.1)
    assert line.startswith("Settled: ")
    assert f"7).{lags}" in line
    assert line.endswith(".")
    lost = curve(modes=[8.0, 8.0, 2.0, 2.0], frechet=[5.0] * 4, mismatch=[2.0] * 4, fake_mismatch=[5.0] * 4)
    line = verdict(lost, FIGURES, alarms(lost, lower_bound=0.1), lower_bound=0.1)
    assert line.startswith("Collapsed: ")
    assert lags in line
    back = curve(**steady, fake_mismatch=[5.0, 5.0, 5.0, 5.0, 1.0])
    line = verdict(back, FIGURES, alarms(back, lower_bound=0.1), lower_bound=0.1)
    assert line.endswith(" The fake score lagged (from step 30 on), but not any more in all of the last three looks.")
    assert "fake score" not in verdict(back, FIGURES, [], lower_bound=0.1)


def test_samples_that_are_alike_from_the_first_look_on_are_said_in_the_verdict() -> None:
    """Nothing falls, so that no alarm is raised."""
    steady: dict[str, list[float | None]] = {"frechet": [50.0, 50.0, 50.0, 50.0]}
    looks = curve(**steady, spread=[0.3] * 4)
    assert alarms(looks, real_spread=1.0) == []
    line = verdict(looks, FIGURES, [], real_spread=1.0)
    assert line.startswith("Settled: ")
    assert line.endswith("). The samples' spread is 0.3, under half of the 1 that they are to have: they are too much alike.")
    for spread, real in (([0.3, 0.3, 0.3, 0.6], 1.0), ([0.3] * 4, 0.5), ([0.3] * 4, None)):
        assert "spread" not in verdict(curve(**steady, spread=spread), FIGURES, [], real_spread=real)


def test_looks_that_were_lost_are_no_want_of_looks() -> None:
    looks = curve(frechet=[50.0, 5.0])
    assert verdict(looks, FIGURES, [], lost=900) == (
        "Too few looks at the generator are left to tell: 2; the rows of 900 steps are lost."
    )
    assert verdict(curve(frechet=[50.0, 5.1, 5.0, 5.2]), FIGURES, [], lost=900).startswith("Settled")
