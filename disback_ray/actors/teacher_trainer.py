"""Trains the teacher with Ray Train: `replicas` workers, each with the resources that the cluster file gives teacher_trainer."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import torch
import torch.distributed
from ray.train import FailureConfig, RunConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import ScalingConfig
from torch.nn.parallel import DistributedDataParallel

from disback_ray.actors.board import Board
from disback_ray.config import RoleResources
from disback_ray.errors import ClusterError, DisbackError
from disback_ray.storage import Folder
from disback_ray.teachers.training import Looks, TeacherPlan, train_teacher

os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
"""Ray Train looks for the end that often; its default is 2."""

REPORT_SECONDS = 0.5


class _Stopped(Exception):
    """The driver asked for a stop."""


def _worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    board, last = config["board"], 0.0
    if ray.get(board.is_over.remote()):
        return  # Ray Train starts failed workers again; what ended them was no accident

    def report(step: int, loss: float) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            if ray.get(board.report.remote(step, loss)):
                raise _Stopped

    context = get_context()
    alone = context.get_world_size() == 1
    distribute = (lambda module: module) if alone else DistributedDataParallel
    try:
        train_teacher(
            config["plan"], config["folder"],
            report=report, rank=context.get_world_rank(), workers=context.get_world_size(), distribute=distribute,
            looks=config["looks"],
        )  # fmt: skip
    except (DisbackError, _Stopped) as error:
        if isinstance(error, DisbackError):
            ray.get(board.fail.remote(error))
        if not alone:
            raise  # the others wait for this one's gradients


def train_on_ray(
    plan: TeacherPlan,
    folder: Folder,
    resources: RoleResources,
    *,
    gpus: float,
    watch: Callable[[int, float], bool],
    looks: Looks | None = None,
) -> bool:
    """Trains the teacher into `folder`; False where it was stopped before its end.

    gpus: for each worker; looks: pictures on the way.
    watch(step, loss) is called about twice a second and says whether to go on. Raises ClusterError, NonFiniteError, CheckpointError.
    """
    hosted: Any = ray.remote(num_cpus=0)(Board)
    board = hosted.remote()
    label = {"ray.io/accelerator-type": resources.accelerator} if resources.accelerator else None
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"plan": plan, "folder": folder, "threads": resources.threads, "board": board, "looks": looks},
        torch_config=TorchConfig(backend="nccl" if gpus and torch.distributed.is_nccl_available() else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.replicas,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": resources.cpus} | ({"GPU": gpus} if gpus else {}),
            label_selector=label,
        ),
        run_config=RunConfig(name="ray-train", storage_path=folder.uri, failure_config=FailureConfig(max_failures=2)),
    )
    outcome: list[BaseException | None] = []

    def fit() -> None:
        try:
            trainer.fit()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    # In a thread: on the main one Ray Train would take Ctrl-C over, and there would be nobody to look at the board.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    stopped, goes_on = False, True
    while goes_on:
        thread.join(REPORT_SECONDS)
        goes_on = thread.is_alive()
        (step, loss), failure = ray.get(board.look.remote())
        if not watch(step, loss) and not stopped:
            stopped = True
            ray.get(board.stop.remote())
    if folder.has("ray-train"):
        folder.remove("ray-train")
    ray.kill(board)
    if stopped:
        return False
    if failure is not None:
        raise failure
    if outcome[0] is not None and not isinstance(outcome[0], TrainingFailedError):
        raise outcome[0]
    if outcome[0] is not None:
        reason = str(outcome[0]).strip().splitlines()[-1]
        raise ClusterError(f"training the teacher failed: {reason}") from outcome[0]
    return True
