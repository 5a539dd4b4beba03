"""While the teacher trains, the cast's processes begin beside it where there is room; else the trainer gets their place."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from disback_ray import theatre
from disback_ray.actors import company, hosted, on_ray, teacher_trainer
from disback_ray.actors.parts import CLASSES
from disback_ray.config import ClusterConfig, RecoveryLimits, RoleResources
from disback_ray.production import Stopped
from disback_ray.storage import Folder


class Reservation:
    """What place() gives, on a machine of so many processors and GPUs; asked: for the roles."""

    def __init__(self, asked: dict[str, RoleResources], *, cpus: float, gpus: float) -> None:
        self.bundles = [SimpleNamespace(cpus=role.cpus * role.actors) for role in asked.values()]
        self.nodes = [SimpleNamespace(cpus=cpus, gpus=gpus)]
        self.removed = False

    def options(self, role: str, replica: int = 0) -> dict[str, Any]:
        return {"num_gpus": 0}

    def remove(self) -> None:
        self.removed = True


def _trained(
    monkeypatch: pytest.MonkeyPatch, *, private: bool, cpus: float, gpus: float = 0, workers: int = 1, each: float = 1
) -> tuple[bool, list[int]]:
    """(whether the cast's reservation was given up, after which of the trainer's reports processes stood by) of a training."""
    roles = {"teacher_trainer": RoleResources(cpus=each, replicas=workers)}
    cluster = ClusterConfig.model_validate({"roles": {name: asked.model_dump() for name, asked in roles.items()}})
    stage = theatre.OnRay(cluster, SimpleNamespace(step=lambda *_, **__: None), private=private)  # type: ignore[arg-type]
    monkeypatch.setattr(theatre, "place", lambda asked, timeout: Reservation(asked, cpus=cpus, gpus=gpus))
    cast = Reservation(theatre.cast_of(stage.roles), cpus=cpus, gpus=gpus)
    stage.placement = cast  # type: ignore[assignment]
    standing: list[int] = []

    def train(*_: Any, watch: Any, **__: Any) -> bool:
        for step in (0, 0, 3, 7):  # 0: the workers have not begun
            watch(step, 0.1)
            if stage.standing:
                standing.append(step)
        return True

    begun: list[str] = []
    monkeypatch.setattr(company, "begin", lambda label, *_, **__: begun.append(label) or label)
    monkeypatch.setattr(teacher_trainer, "train_on_ray", train)
    stage.train_teacher(None, None, stop=SimpleNamespace(is_set=lambda: False))  # type: ignore[arg-type]
    assert begun in ([], list(CLASSES)), "each once, and only the cast"
    assert stage.placement is (None if cast.removed else cast)
    return cast.removed, standing


def test_the_cast_stands_by_once_the_workers_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _trained(monkeypatch, private=True, cpus=4) == (False, [3, 7])
    assert _trained(monkeypatch, private=True, cpus=4.25, workers=3) == (False, [3, 7])


@pytest.mark.parametrize(
    "given",
    [{"private": False, "cpus": 64}, {"private": True, "cpus": 2}, {"private": True, "cpus": 4, "workers": 3},
     {"private": True, "cpus": 4, "each": 3}, {"private": True, "cpus": 64, "gpus": 1}],
)  # fmt: skip
def test_the_trainer_may_need_the_cast_s_place(monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    assert _trained(monkeypatch, **given) == (True, [])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> theatre.OnRay:
    """On a private machine with room for all."""
    monkeypatch.setattr(theatre, "place", lambda asked, timeout: Reservation(asked, cpus=64, gpus=0))
    return theatre.OnRay(ClusterConfig(), SimpleNamespace(stage=lambda _: None, step=lambda *_, **__: None), private=True)  # type: ignore[arg-type]


def test_a_stop_gets_to_the_trainer_and_ends_the_run(stage: theatre.OnRay, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def train(*_: Any, watch: Any, **__: Any) -> bool:
        asked.append(watch(0, 0.1))
        return False

    monkeypatch.setattr(teacher_trainer, "train_on_ray", train)
    with pytest.raises(Stopped):
        stage.train_teacher(None, None, stop=SimpleNamespace(is_set=lambda: True))  # type: ignore[arg-type]
    assert asked == [False]


def test_who_stands_by_is_cast_where_it_stands_and_forgotten_with_its_place(
    stage: theatre.OnRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, dict[str, Any], bool]] = []

    def put_on(recipe: Any, places: Any, roles: Any, placement: Any, *, standing: Any, trace: bool, **_: Any) -> None:
        given.append((placement, dict(standing), trace))

    monkeypatch.setattr(theatre, "on_ray", put_on)
    monkeypatch.setattr(Reservation, "describe", list, raising=False)
    production: Any = SimpleNamespace(recipe=None, places=None, seed=0, trace=True)
    first = stage.placement = Reservation({}, cpus=64, gpus=0)  # type: ignore[assignment]
    stage.standing = {"generator": "its process"}
    stage.cast(production)
    stage.close()
    stage.cast(production)
    assert given == [(first, {"generator": "its process"}, True), (stage.placement, {}, True)]
    assert stage.placement not in (None, first)


def test_who_stands_by_has_the_role_s_own_place_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[Any, ...]] = []
    monkeypatch.setattr(company, "begin", lambda label, role, *, options, threads: begun.append((label, role, options, threads)))
    placement: Any = SimpleNamespace(options=lambda role, replica=0: {"bundle": (role, replica)})
    roles = {"teacher": RoleResources(replicas=2), "fake_score": RoleResources(ranks=2), "generator": RoleResources(cpus=3)}
    company.stand_by(roles, placement)
    assert begun == [
        ("teacher/0", CLASSES["teacher"], {"bundle": ("teacher", 0)}, 1),
        ("teacher/1", CLASSES["teacher"], {"bundle": ("teacher", 1)}, 1),
        ("generator", CLASSES["generator"], {"bundle": ("generator", 0)}, 3),
    ]


def test_a_role_is_played_by_the_process_that_stands_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "begin", lambda name, *_, **__: f"a new {name}")
    common: dict[str, Any] = {"options": {}, "threads": 1, "shared": None, "proof": ""}
    actors = [on_ray.OnRay("teacher", (dict, {}), begun=begun, **common).actors for begun in ("who stands by", None)]
    assert actors == [{"teacher": "who stands by"}, {"teacher": "a new teacher"}]


@pytest.mark.parametrize("trace", [False, True])
def test_whether_calls_are_noted_is_told_to_the_process(trace: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played here, without Ray: one that stands by began before it was known."""
    monkeypatch.setattr(hosted, "where", lambda: "here")
    (tmp_path / "proof").touch()
    process = hosted.Hosted("teacher/0", 1)
    begun = SimpleNamespace(build=SimpleNamespace(remote=lambda *given: asyncio.run(process.build(*given))))
    role = on_ray.OnRay(
        "teacher/0", (dict, {}), options={}, threads=1, shared=Folder.at(tmp_path), proof="proof", trace=trace, begun=begun
    )
    assert role.build() == {"teacher/0": "here"}
    assert (process.name, process.role, process.sheet.trace) == ("teacher", {}, trace)


def test_who_stands_by_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str | None]] = []

    class Recovery:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def seat(self, roles: dict[str, Any]) -> dict[str, Any]:
            for _, spawn in [*roles.values(), *roles.values()]:  # as if each were lost once
                spawn()
            return dict.fromkeys(roles)

    class Process:
        def __init__(self, label: str, *_: Any, begun: str | None, **__: Any) -> None:
            made.append((label, begun))

    class Ranks(Process):
        def __init__(self, label: str, *_: Any, **__: Any) -> None:
            super().__init__(label, begun=None)

    monkeypatch.setattr(company, "Recovery", Recovery)
    monkeypatch.setattr(company, "begin", lambda label, role, **_: f"{label}, a {role.__name__}")
    monkeypatch.setattr(company, "OnRay", Process)
    monkeypatch.setattr(company, "RankGroup", Ranks)
    roles = {"teacher": RoleResources(replicas=2), "generator": RoleResources(), "fake_score": RoleResources(ranks=2)}
    placement: Any = SimpleNamespace(options=lambda *_: {}, missing=None)
    needed = {name: (CLASSES[name], {}) for name in roles}
    standing = company.stand_by(roles, placement)
    common: dict[str, Any] = {"shared": None, "proof": "", "limits": RecoveryLimits(), "audience": None, "trace": False}
    company.hosted(needed, roles, placement, standing=standing, **common)
    first = [("teacher/0", "teacher/0, a FrozenTeacher"), ("teacher/1", "teacher/1, a FrozenTeacher")]
    assert made == [
        *first, ("generator", "generator, a Generator"), ("fake_score", None),
        ("teacher/0", None), ("teacher/1", None), ("generator", None), ("fake_score", None),
    ]  # fmt: skip
