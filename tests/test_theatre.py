"""While the teacher trains, the cast's processes begin beside it where there is room; else the trainer gets their place."""

from types import SimpleNamespace
from typing import Any

import pytest

from disback_ray import theatre
from disback_ray.actors import company, teacher_trainer
from disback_ray.actors.parts import CLASSES
from disback_ray.config import ClusterConfig, RecoveryLimits, RoleResources


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
    monkeypatch: pytest.MonkeyPatch, *, private: bool, cpus: float, gpus: float = 0, workers: int = 1
) -> tuple[bool, list[int]]:
    """(whether the cast's reservation was given up, after which of the trainer's reports processes stood by) of a training."""
    roles = {"teacher_trainer": RoleResources(cpus=1, replicas=workers)}
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
     {"private": True, "cpus": 64, "gpus": 1}],
)  # fmt: skip
def test_the_trainer_may_need_the_cast_s_place(monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    assert _trained(monkeypatch, **given) == (True, [])


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
