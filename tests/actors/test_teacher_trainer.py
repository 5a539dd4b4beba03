"""Ray Train's workers give the teacher that one process gives; a lost one is replaced, and an error of theirs is one line."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from ray._private import state

from disback_ray.actors import teacher_trainer
from disback_ray.actors.teacher_trainer import train_on_ray
from disback_ray.algorithms.noise import LogNormalNoise
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.config import RoleResources
from disback_ray.data.sources import RingData
from disback_ray.errors import ClusterError
from disback_ray.networks.spec import DenoiserSpec, ResNetMLPSpec
from disback_ray.storage import Folder
from disback_ray.teachers.training import TeacherPlan, train_teacher

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Train's own, at every start

PLAN = TeacherPlan(
    spec=DenoiserSpec(ResNetMLPSpec(width=16, blocks=1), (2,), 0, 1.42), data=RingData(), steps=200, batch=30,
    optimiser=OptimiserSettings(lr=2e-3), ema=0.9, label_dropout=0.0, noise=LogNormalNoise(), seed=3,
)  # fmt: skip
ONE, TWO = (RoleResources(cpus=1, gpus=0, replicas=replicas) for replicas in (1, 2))


def here(plan: TeacherPlan, folder: Path) -> dict[str, torch.Tensor]:
    """The teacher that one process trains, without Ray."""
    train_teacher(plan, Folder.at(folder), report=lambda step, loss: None)
    return weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.usefixtures("attached")
def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    """To the rounding of a sum in another order: each draws its own part of every batch."""
    seen: list[tuple[int, float]] = []

    def watch(step: int, loss: float) -> bool:
        seen.append((step, loss))
        return True

    assert train_on_ray(PLAN, Folder.at(tmp_path / "two"), TWO, gpus=0, watch=watch)
    ours, theirs = weights(tmp_path / "two"), here(PLAN, tmp_path / "one")
    first = PLAN.spec.build(seed=PLAN.seed).state_dict()
    assert ours.keys() == theirs.keys() == first.keys()
    for name in first:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert max((theirs[name] - first[name]).abs().max() for name in first) > 0.05, "training does more than rounding"
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)
    assert not (tmp_path / "two" / "ray-train").exists()


@pytest.mark.usefixtures("attached")
def test_a_killed_worker_is_replaced_and_goes_on(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=1000)
    killed: list[int] = []

    def watch(step: int, loss: float) -> bool:
        if (tmp_path / "ray" / "unfinished.safetensors").exists() and not killed:
            (worker,) = [a for a in state.actors().values() if a["ActorClassName"] == "RayTrainWorker" and a["State"] == "ALIVE"]
            killed.append(worker["Pid"])
            os.kill(worker["Pid"], signal.SIGKILL)
        return True

    assert train_on_ray(plan, Folder.at(tmp_path / "ray"), ONE, gpus=0, watch=watch)
    assert killed
    ours, theirs = weights(tmp_path / "ray"), here(plan, tmp_path / "here")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_worker_s_error_is_one_line(tiny: Any, ray_cluster: str, tmp_path: Path) -> None:
    more = [f"cluster.address={ray_cluster}", "cluster.roles.teacher_trainer={cpus: 1, gpus: 0, replicas: 2}"]
    more += [f"cluster.storage={tmp_path}/storage", "teacher.training.optimiser.lr=1.0e+25"]
    words = tiny.arguments("ring8", tmp_path / "run", *(word for setting in more for word in ("--set", setting)))
    command = [str(Path(sys.executable).with_name("disback-ray")), *words]
    said = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120)
    assert (said.returncode, said.stdout) == (2, "")
    *before, last = said.stderr.splitlines()
    assert before[0] == "training the teacher …"
    assert all(line.startswith("training the teacher: ") for line in before[1:])
    assert last.startswith("disback-ray: the teacher's loss is ")
    assert last.endswith(": lower teacher.training.optimiser.lr")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], f"disback-ray: {summary['error']}") == ("failed", last)
    assert not list(tmp_path.glob("storage/teachers/*/*"))


@pytest.mark.usefixtures("attached")
def test_ray_train_s_own_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def __call__(self, *_: object, **__: object) -> "Fails":
            return self

        def fit(self) -> None:
            raise self.error

    def train(error: Exception) -> None:
        monkeypatch.setattr(teacher_trainer, "TorchTrainer", Fails(error))
        train_on_ray(PLAN, Folder.at(tmp_path), ONE, gpus=0, watch=lambda step, loss: True)

    with pytest.raises(ClusterError, match=r"^training the teacher failed: the workers were lost$"):
        train(teacher_trainer.TrainingFailedError("Traceback\n  …\nthe workers were lost\n"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        train(ZeroDivisionError("a bug"))
