"""Ray Train's workers give the teacher that one process gives; they stop when asked to, and an error of theirs is one line."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from disback_ray.actors import teacher_trainer
from disback_ray.actors.teacher_trainer import train_on_ray
from disback_ray.algorithms.noise import LogNormalNoise
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.config import RoleResources
from disback_ray.data.sources import RingData
from disback_ray.errors import ClusterError, NonFiniteError
from disback_ray.networks.spec import DenoiserSpec, ResNetMLPSpec
from disback_ray.storage import Folder
from disback_ray.teachers.training import TeacherPlan, train_teacher

PLAN = TeacherPlan(
    spec=DenoiserSpec(ResNetMLPSpec(width=16, blocks=1), (2,), 0, 1.42), data=RingData(), steps=300, batch=30,
    optimiser=OptimiserSettings(lr=2e-3), ema=0.9, label_dropout=0.0, noise=LogNormalNoise(), seed=3,
)  # fmt: skip
ONE, TWO = (RoleResources(cpus=1, gpus=0, replicas=replicas) for replicas in (1, 2))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.usefixtures("attached")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Train's own, at every start
def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    """To the rounding of a sum in another order: each draws its own part of every batch."""
    seen: list[tuple[int, float]] = []

    def watch(step: int, loss: float) -> bool:
        seen.append((step, loss))
        return True

    assert train_on_ray(PLAN, Folder.at(tmp_path / "two"), TWO, gpus=0, watch=watch)
    train_teacher(PLAN, Folder.at(tmp_path / "one"), report=lambda step, loss: None)
    ours, theirs, first = weights(tmp_path / "two"), weights(tmp_path / "one"), PLAN.spec.build(seed=PLAN.seed).state_dict()
    assert ours.keys() == theirs.keys() == first.keys()
    for name in first:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert max((theirs[name] - first[name]).abs().max() for name in first) > 0.05, "training does more than rounding"
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)
    assert not (tmp_path / "two" / "ray-train").exists()


# -- what ends it, with Ray and Ray Train played here --


class LocalRay:
    """An actor is an object, and a reference is the value."""

    def remote(self, **_: object) -> Callable[..., Any]:
        return lambda kind: SimpleNamespace(remote=lambda: Local(kind()))

    def get(self, value: Any) -> Any:
        return value

    def kill(self, actor: Any) -> None:
        pass


class Local:
    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.actor, name))


Fit = Callable[[Callable[[], None]], None]
"""What Ray Train does, given what a worker does."""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    def run(fit: Fit, plan: TeacherPlan = PLAN, *, workers: int = 1, go_on: bool = True, resources: RoleResources = ONE) -> bool:
        def trainer(worker: Callable[[dict[str, Any]], None], *, train_loop_config: dict[str, Any], **_: object) -> Any:
            return SimpleNamespace(fit=lambda: fit(lambda: worker(train_loop_config)))

        context = SimpleNamespace(get_world_size=lambda: workers, get_world_rank=lambda: 0)
        monkeypatch.setattr(teacher_trainer, "TorchTrainer", trainer)
        monkeypatch.setattr(teacher_trainer, "get_context", lambda: context)
        monkeypatch.setattr(teacher_trainer, "DistributedDataParallel", lambda module: module)
        monkeypatch.setattr(teacher_trainer, "ray", LocalRay())
        return train_on_ray(plan, Folder.at(tmp_path), resources, gpus=0, watch=lambda step, loss: go_on)

    return run


def test_a_worker_has_the_threads_of_its_processors(train: Callable[..., bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another number of threads are other sums."""
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(teacher_trainer, "train_teacher", lambda *_, **__: threads.append(0))
    assert train(lambda worker: worker(), resources=RoleResources(cpus=3, gpus=0))
    assert threads == [3, 0]


def again(worker: Callable[[], None]) -> None:
    """As Ray Train does it where a worker failed: all of them begin again."""
    with contextlib.suppress(Exception):
        worker()
    worker()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[TeacherPlan]:
    """Of each time that a worker begins to train."""
    begun: list[TeacherPlan] = []

    def noted(plan: TeacherPlan, *args: Any, **kwargs: Any) -> None:
        begun.append(plan)
        train_teacher(plan, *args, **kwargs)

    monkeypatch.setattr(teacher_trainer, "train_teacher", noted)
    return begun


DIVERGING, ENDLESS = replace(PLAN, optimiser=OptimiserSettings(lr=1e25)), replace(PLAN, steps=10**6)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_s_error_is_the_driver_s(
    train: Callable[..., bool], trainings: list[TeacherPlan], workers: int, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteError, match=r"^the teacher's loss is \S+ at step \d+: lower teacher\.training\.optimiser\.lr$"):
        train(again, DIVERGING, workers=workers)
    assert trainings == [DIVERGING], "it would only fail again"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_is_no_failure(train: Callable[..., bool], trainings: list[TeacherPlan], workers: int, tmp_path: Path) -> None:
    assert not train(again, ENDLESS, workers=workers, go_on=False)
    assert trainings == [ENDLESS]
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_where_others_wait_for_its_gradients_a_worker_fails_loudly(train: Callable[..., bool], workers: int) -> None:
    failed: list[Exception] = []

    def fit(worker: Callable[[], None]) -> None:
        try:
            worker()
        except Exception as error:
            failed.append(error)

    with pytest.raises(NonFiniteError):
        train(fit, DIVERGING, workers=workers)
    assert len(failed) == workers - 1


def test_ray_train_s_own_failure_is_one_line(train: Callable[..., bool]) -> None:
    def fails(error: Exception) -> Fit:
        def fit(worker: Callable[[], None]) -> None:
            raise error

        return fit

    with pytest.raises(ClusterError, match=r"^training the teacher failed: the workers were lost$"):
        train(fails(teacher_trainer.TrainingFailedError("Traceback\n  …\nthe workers were lost\n")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        train(fails(ZeroDivisionError("a bug")))
