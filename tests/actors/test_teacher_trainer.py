"""Ray Train's workers give the teacher that one process gives; they stop when asked to, and an error of theirs is one line."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import safetensors.torch
import torch
from ray._private import state

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

pytestmark = [
    pytest.mark.usefixtures("attached"),
    pytest.mark.filterwarnings("ignore:`use_push_based_shuffle` is deprecated"),  # Ray Train's own
]

PLAN = TeacherPlan(
    spec=DenoiserSpec(ResNetMLPSpec(width=16, blocks=1), (2,), 0, 1.42), data=RingData(), steps=250, batch=30,
    optimiser=OptimiserSettings(lr=2e-3), ema=0.9, label_dropout=0.0, noise=LogNormalNoise(), seed=3,
)  # fmt: skip
ENDLESS = replace(PLAN, steps=10**6)


def resources(workers: int) -> RoleResources:
    return RoleResources(cpus=1, gpus=0, replicas=workers)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher that one process trains, without Ray."""
    folder = tmp_path_factory.mktemp("alone")
    train_teacher(PLAN, Folder.at(folder), report=lambda step, loss: None)
    return folder


def test_two_workers_train_what_one_does(alone: Path, tmp_path: Path) -> None:
    """To the rounding of a sum in another order: each draws its own part of every batch."""
    seen: list[tuple[int, float]] = []

    def watch(step: int, loss: float) -> bool:
        seen.append((step, loss))
        return True

    assert train_on_ray(PLAN, Folder.at(tmp_path), resources(2), gpus=0, watch=watch)
    ours, theirs = weights(tmp_path), weights(alone)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    moved = PLAN.spec.build(seed=PLAN.seed).state_dict()
    assert any((theirs[name] - moved[name]).abs().max() > 0.05 for name in moved), "training does more than that"
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)
    assert not (tmp_path / "ray-train").exists()


def test_stopped_it_goes_on_from_what_it_kept(alone: Path, tmp_path: Path) -> None:
    kept = tmp_path / "unfinished.safetensors"
    steps: list[int] = []

    def watch(step: int, loss: float) -> bool:
        steps.append(step)
        return not kept.exists()

    endless = replace(PLAN, steps=10**6, optimiser=OptimiserSettings(lr=2e-3))
    assert not train_on_ray(replace(endless, steps=1200), Folder.at(tmp_path), resources(1), gpus=0, watch=watch)
