"""Runs that need one and the same teacher at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from disback_ray import one_teacher
from disback_ray.interruption import Stop
from disback_ray.networks.spec import DenoiserSpec, ResNetMLPSpec
from disback_ray.one_teacher import train_once
from disback_ray.production import Stopped
from disback_ray.progress import Silent
from disback_ray.storage import Folder
from disback_ray.teachers.saved import save_denoiser

SPEC = DenoiserSpec(ResNetMLPSpec(width=2, blocks=1), (2,), 0, 1.0)


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.told = threading.Event()

    def say(self, text: str) -> None:
        self.lines.append(text)
        self.told.set()


class Training:
    """Takes until it is let go; then its teacher is in the folder, unless it fails."""

    def __init__(self, folder: Folder, *, fails: bool = False) -> None:
        self.folder, self.fails = folder, fails
        self.begun, self.ends = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.ends.wait(30)
        if self.fails:
            raise RuntimeError("killed")
        save_denoiser(self.folder, SPEC, {"weight": torch.ones(1)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(one_teacher, "LOOK_SECONDS", 0.01)
    return Folder.at(tmp_path / "teacher")


def stop() -> Stop:
    return Stop(lambda text: None)


@pytest.mark.parametrize("fails", [False, True])
def test_the_second_waits_and_trains_only_if_the_first_one_failed(folder: Folder, fails: bool) -> None:
    first, second, heard = Training(folder, fails=fails), Training(folder), Heard()
    second.ends.set()
    with ThreadPoolExecutor() as pool:
        one = pool.submit(train_once, first, folder, watch=Silent(), stop=stop())
        assert first.begun.wait(30)
        other = pool.submit(train_once, second, folder, watch=heard, stop=stop())
        assert heard.told.wait(30)
        assert not second.begun.is_set()
        first.ends.set()
        assert isinstance(one.exception(30), RuntimeError) == fails
        other.result(30)
    assert second.begun.is_set() == fails
    assert heard.lines == ["another run trains this very teacher: waiting for it"]
    assert folder.names() == ["denoiser.json", "model.safetensors"], "no lock is left"


def test_whoever_waits_can_be_stopped(folder: Folder) -> None:
    first, heard, asked = Training(folder), Heard(), stop()
    with ThreadPoolExecutor() as pool:
        one = pool.submit(train_once, first, folder, watch=Silent(), stop=stop())
        assert first.begun.wait(30)
        other = pool.submit(train_once, Training(folder), folder, watch=heard, stop=asked)
        assert heard.told.wait(30)
        with pytest.raises(KeyboardInterrupt):
            asked._ask(2, None)
        assert isinstance(other.exception(30), Stopped)
        first.ends.set()
        one.result(30)
