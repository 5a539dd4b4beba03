"""`placement: auto`: what is faster is chosen, said in a line, and kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from disback_ray import running, trial
from disback_ray.config import load_cluster, load_recipe
from disback_ray.progress import Silent
from disback_ray.run_folder import placement_of
from disback_ray.storage import Folder
from disback_ray.trial import Timed, decide


def test_the_faster_is_chosen_and_where_it_is_close_the_one_without_ray() -> None:
    here = Timed(0.4, "fake_score", 0.2)
    assert decide(here, Timed(0.25, "fake_score", 0.2)) == ("actors", "a step takes 400 ms in one process and 250 ms over actors")
    assert [decide(here, Timed(seconds, "", 0.1))[0] for seconds in (0.39, 0.41)] == ["in-process", "in-process"]


def test_small_steps_are_played_in_one_process_and_a_run_that_goes_on_keeps_it(
    tiny: Any, command: Callable[..., Any], ring8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actors can't be faster, so that Ray isn't even started; and the run is the one that it would have been."""
    timed = trial.timed

    def clocked(company: Any, recipe: Any, *, seed: int) -> Timed:
        """The steps are played; what they take is not this machine's to say."""
        played = timed(company, recipe, seed=seed)
        assert played.busy > 0
        return Timed(0.010, played.busiest, 0.006)

    monkeypatch.setattr(trial, "timed", clocked)
    monkeypatch.setattr(trial, "_over_actors", lambda *_, **__: pytest.fail("Ray was started for nothing"))
    said = command(*tiny.arguments("ring8", tmp_path / "run", "--set", "cluster.placement=auto"))
    assert said.status == 0, said.err
    assert "placement: in-process: a step takes" in said.out + said.err
    assert "actors can't be faster" in said.out + said.err
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["cluster"]["placement"] == "in-process"
    assert not list(tiny.storage.glob("trial-*"))
    tiny.assert_equal(tmp_path / "run", ring8)

    kept = placement_of(Folder.at(tmp_path / "run"))
    cluster, recipe = load_cluster(None, overrides=["placement=auto"]), load_recipe("ring8")
    monkeypatch.setattr(running, "choose", lambda *_, **__: pytest.fail("a second trial may choose otherwise"))
    storage = Folder.at(tmp_path)
    assert running._placed(recipe, cluster, storage, None, seed=0, kept=kept, watch=Silent()).placement == "in-process"


def test_without_a_trial_there_are_actors(tmp_path: Path) -> None:
    chosen, why = trial.choose(load_recipe("digits"), load_cluster(None), None, Folder.at(tmp_path), seed=0)
    assert (chosen, "no trial" in why) == ("actors", True)
