"""What is asked of whom when a run is looked at: no role that a step needs has to wait for the evaluator."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from disback_ray.algorithms.backtracking import STAGE
from disback_ray.algorithms.cast import Step
from disback_ray.config import load_recipe
from disback_ray.following import MOST_ASIDES, OF_A_LOOK, Follower
from disback_ray.interruption import Stop
from disback_ray.rehearsal import checkpoints
from disback_ray.rehearsal.backtracking import _between
from disback_ray.rehearsal.checkpoints import Checkpoints
from disback_ray.rehearsal.looks import Looks
from disback_ray.rehearsal.samples import Samples
from disback_ray.storage import Folder

TRAINED = ("teacher", "path_node", "fake_score", "generator")


@dataclass(frozen=True)
class Asked:
    """A call, which stands for what it will give."""

    role: str
    method: str
    given: tuple[Any, ...] = ()

    def waits_for(self) -> Iterator["Asked"]:
        for given in self.given:
            if isinstance(given, Asked):
                yield given
                yield from given.waits_for()


@dataclass
class Role:
    name: str
    calls: list[Asked]

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Asked:
            self.calls.append(asked := Asked(self.name, method, (*args, *kwargs.values())))
            return asked

        return call


@dataclass
class Company:
    calls: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in (*TRAINED, "evaluator"):
            setattr(self, name, Role(name, self.calls))

    def is_ready(self, later: Any) -> bool:
        return False


def crew_of(recipe: str, *overrides: str) -> Any:
    said: list[str] = []
    watch = SimpleNamespace(say=said.append)
    read = load_recipe(recipe, overrides=overrides)
    leaves_out = read.evaluation.reference is not None
    production: Any = SimpleNamespace(recipe=read, seed=0, watch=watch, leaves_looks_out=leaves_out)
    company: Any = Company()
    metrics: Any = SimpleNamespace(seconds=0.0)
    follower = Follower(company, metrics, watch, stop=Stop(said.append))  # type: ignore[arg-type]
    samples = Samples(production, company)
    looks = Looks(production, company, follower, samples)
    targets = SimpleNamespace(watch=lambda step: None, plan=())
    idle: Any = SimpleNamespace(keep_frame=lambda *_: None, of_generator=lambda *_: None, is_due=lambda *_: False)
    return SimpleNamespace(
        production=production, company=company, follower=follower, samples=samples, looks=looks, targets=targets,
        pictures=idle, checkpoints=idle, said=said,
    )  # fmt: skip


JUDGED = ("evaluation.reference=x.npz", "evaluation.extractor=pixels", "evaluation.samples=100")


@pytest.mark.parametrize(("recipe", "overrides"), [("digits", ()), ("ring8", ()), ("cifar10-edm", ()), ("cifar10-edm", JUDGED)])
def test_no_role_that_a_step_needs_waits_for_the_evaluator(recipe: str, overrides: tuple[str, ...]) -> None:
    """But for what is to be drawn, which it says at the start."""
    crew = crew_of(recipe, *overrides)
    crew.looks.look(Step(STAGE, 9, 0, ()))
    asked = [call for call in crew.company.calls if call.role in TRAINED]
    assert {call.method for call in asked} >= {"draw", "probe", "score_at"}
    waits = {later.method for call in asked for later in call.waits_for() if later.role == "evaluator"}
    assert waits <= {"wanted", "wanted_look"}


def test_where_images_are_judged_too_slowly_looks_are_left_out() -> None:
    """Rather than that a step waits; but for the last one, and those of a node's end."""
    crew = crew_of("cifar10-edm", *JUDGED, "evaluation.every=1", "backtracking.steps=100", "backtracking.steps_per_node=20")
    for step in range(100):
        _between(crew, Step(STAGE, step, 0, ()))
    looked = sum(call.method == "measure_weights" for call in crew.company.calls)
    assert looked == MOST_ASIDES - OF_A_LOOK + 1 + 1, "until the evaluator is behind, and at the end"
    assert len(crew.said) == 100 - looked
    assert crew.said[0].startswith(f"step {looked}: not looked at: the evaluator is still at earlier looks")


def test_looks_at_points_are_never_left_out() -> None:
    crew = crew_of("ring8", "evaluation.every=1", "backtracking.steps=100", "backtracking.steps_per_node=20")
    for step in range(100):
        _between(crew, Step(STAGE, step, 0, ()))
    assert sum(call.method == "measure" for call in crew.company.calls) == 100
    assert crew.said == []


class Written:
    """A company whose roles write at once, and whose evaluator never answers."""

    def __init__(self, calls: list[str]) -> None:
        def snapshot(name: str) -> Any:
            return SimpleNamespace(snapshot=lambda: name, write=lambda *_: {"sha256": name})

        self.fake_score, self.generator = snapshot("fake_score"), snapshot("generator")
        self.log_steps = None
        self.kept = lambda points: calls.append("kept")
        self.wait = lambda later: later

    def is_ready(self, later: Any) -> bool:
        return later != "a look"


@pytest.mark.parametrize(("leaves_out", "expected"), [(True, ["manifest"]), (False, [])])
def test_a_checkpoint_is_whole_while_a_look_is_out(
    leaves_out: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where looks may be left out; else the looks before it are to be in the metrics once it is. The log is kept for it in any case."""
    calls: list[str] = []
    monkeypatch.setattr(checkpoints, "save_checkpoint", lambda *_, **__: calls.append("manifest"))
    monkeypatch.setattr(checkpoints, "drop_checkpoints", lambda *_, **__: calls.append("dropped"))
    nothing = SimpleNamespace(require=lambda: None, flush=lambda: None, say=lambda text: None, seconds=0.0)
    production: Any = SimpleNamespace(
        lock=nothing, metrics=nothing, watch=nothing, folder=Folder("memory"), save_summary=lambda: None, keep=2,
        leaves_looks_out=leaves_out,
    )  # fmt: skip
    company: Any = Written(calls)
    follower = Follower(company, production.metrics, production.watch, stop=Stop(lambda text: None))
    looked: list[Any] = []
    follower.ask("a look", looked.append)
    Checkpoints(production, company, follower, SimpleNamespace(gaps={})).keep(STAGE, 10)  # type: ignore[arg-type]
    follower._gather(follower.beside, most=8)
    follower._gather(follower.asides, most=8)
    assert calls == expected
    follower.finish()
    assert looked == ["a look"]
    assert calls == ["manifest", "kept", "dropped"], "once each"
