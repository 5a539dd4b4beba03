"""Denoisers on disk, and weights that are not the network's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.networks.spec import DDPMppSpec, DenoiserSpec, ResNetMLPSpec
from disback_ray.storage import Folder, digest
from disback_ray.teachers.saved import is_saved, load_denoiser, load_strictly, restore, save_denoiser

POINTS = DenoiserSpec(ResNetMLPSpec(width=8, blocks=1), (2,), 0, 1.4)
IMAGES = DenoiserSpec(DDPMppSpec(channels=16, multipliers=(1, 2), blocks=1, attention=(4,)), (1, 8, 8), 10, 0.5)


@pytest.mark.parametrize("spec", [POINTS, IMAGES], ids=["points", "images"])
@torch.no_grad()
def test_a_denoiser_comes_back_whole(tmp_path: Path, spec: DenoiserSpec) -> None:
    folder, denoiser = Folder.at(tmp_path), spec.build(seed=3)
    for parameter in denoiser.parameters():  # the last layers begin at zero
        parameter.add_(0.1)
    assert not is_saved(folder)
    save_denoiser(folder, spec, denoiser.state_dict())
    assert is_saved(folder)
    again = load_denoiser(folder)
    assert digest(again.state_dict()) == digest(denoiser.state_dict())
    assert not again.training
    x, sigma = torch.ones(2, *spec.shape), torch.tensor([0.3, 2.0])
    condition = torch.tensor([3, -1]) if spec.classes else None
    assert torch.equal(again(x, sigma, condition), denoiser(x, sigma, condition))


def harmed(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", lambda data: data[:-1] + b"\x7f"),
        ("model.safetensors", lambda data: data[:100]),
        ("denoiser.json", lambda data: data[:40]),
        ("denoiser.json", lambda data: b"[]"),
        ("denoiser.json", lambda data: data.replace(b"resnet-mlp", b"transformer")),
        ("denoiser.json", lambda data: data.replace(b'"blocks": 1', b'"blocks": 2')),
        ("denoiser.json", lambda data: data.replace(b'"width": 8', b'"width": 16')),
    ],
)
def test_a_harmed_folder_is_refused_in_one_line(tmp_path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    save_denoiser(Folder.at(tmp_path), POINTS, POINTS.build().state_dict())
    harmed(tmp_path, name, change)
    with pytest.raises(CheckpointError) as refused:
        load_denoiser(Folder.at(tmp_path))
    assert "\n" not in str(refused.value)


OTHERS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "enter.weight": lambda weights: {k: v for k, v in weights.items() if not k.endswith("enter.weight")},
    "extra": lambda weights: weights | {"extra": torch.ones(1)},
    "leave.bias": lambda weights: {k: v[:1] if k.endswith("leave.bias") else v for k, v in weights.items()},
    "model.enter": lambda weights: {f"module.{k}": v for k, v in weights.items()},  # as DDP names them
}


@pytest.mark.parametrize("named", OTHERS)
def test_weights_of_another_network_are_refused_by_name(named: str) -> None:
    denoiser = POINTS.build(seed=0)
    with pytest.raises(CheckpointError, match=rf"there: the weights don't fit the network: .*{named}") as refused:
        load_strictly(denoiser, OTHERS[named](POINTS.build(seed=1).state_dict()), where="there")
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_is_not_restored(tmp_path: Path) -> None:
    class Holder:
        def restore(self, tensors: dict[str, Tensor]) -> None:
            raise RuntimeError("Error(s) in loading:\n\tsize mismatch")

    Folder.at(tmp_path).write_tensors("a.safetensors", {})
    with pytest.raises(CheckpointError, match=r"a.safetensors doesn't fit .*size mismatch.*delete it") as refused:
        restore(Holder(), folder=Folder.at(tmp_path), name="a.safetensors")
    assert "\n" not in str(refused.value)
