"""openai's state dicts: the architecture from the shapes alone, and one refusal for anything else."""

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.preconditioning import ConsistencyPrecond
from disback_ray.teachers.consistency import _architecture, read_consistency_checkpoint

PARITY = Path(__file__).parents[1] / "parity"
Weights = dict[str, Tensor]


def parity(name: str) -> tuple[Weights, dict[str, Tensor]]:
    with safe_open(PARITY / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}, tensors


@pytest.mark.parametrize("name", ["cm_cond", "cm_uncond_lsun_style"])
@torch.no_grad()
def test_reads_the_same_weights_and_computes_the_same(tmp_path: Path, name: str) -> None:
    weights, vectors = parity(name)
    path = tmp_path / "cd.pt"
    torch.save(weights, path)
    state_of_the_generator = torch.get_rng_state()
    for kind, expected in (("boundary", "consistency"), ("standard", "edm_denoised")):
        checkpoint = read_consistency_checkpoint(path, kind=kind, head_channels=16)  # type: ignore[arg-type]
        denoiser = checkpoint.denoiser
        assert checkpoint.precision == ", ".join(sorted({str(value.dtype)[6:] for value in weights.values()}))
        assert torch.equal(torch.get_rng_state(), state_of_the_generator)
        assert not denoiser.training
        assert denoiser.label_dim == (1000 if "y" in vectors else 0)
        ours = denoiser.model.state_dict()
        assert ours.keys() == weights.keys()
        assert all(torch.equal(ours[key], weights[key].float()) for key in weights)
        theirs = vectors[expected]
        denoised = denoiser(vectors["x"], vectors["sigma"], vectors.get("y"))
        assert (denoised - theirs).norm() < 1e-4 * theirs.norm()


IMAGENET: dict[str, Any] = {
    "model_channels": 192, "num_res_blocks": 3, "channel_mult": (1, 2, 3, 4), "attention_factors": (2, 4, 8),
    "head_channels": 64, "num_classes": 1000, "scale_shift": True,
}  # fmt: skip
LSUN: dict[str, Any] = {
    "model_channels": 256, "num_res_blocks": 2, "channel_mult": (1, 1, 2, 2, 4, 4), "attention_factors": (8, 16, 32),
    "head_channels": 64, "num_classes": 0, "scale_shift": False,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1,), "attention_factors": (1,),
    "head_channels": 32, "num_classes": 2, "scale_shift": False,
}  # fmt: skip
NO_ATTENTION = SMALL | {"num_res_blocks": 2, "channel_mult": (1, 2, 2), "attention_factors": ()}


@pytest.mark.parametrize("arguments", [IMAGENET, LSUN, SMALL, NO_ATTENTION])
def test_the_architecture_is_read_off_the_shapes(arguments: dict[str, Any]) -> None:
    with torch.device("meta"):
        weights = ConsistencyUNet(**arguments).state_dict()
    assert _architecture(weights, head_channels=arguments["head_channels"]) == arguments | {"in_channels": 3, "out_channels": 3}


def small() -> Weights:
    return ConsistencyUNet(**SMALL).state_dict()


def saved(content: object, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(content, file, **options)
    file.seek(0)
    return file


def refused(file: io.BytesIO, *, says: str = "", head_channels: int = 32) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_consistency_checkpoint(file, head_channels=head_channels, name="cd.pt")
    message = str(caught.value)
    assert message.startswith("cd.pt: ")
    assert message.isprintable()
    assert len(message) < 350
    assert says in message


def test_the_older_file_format_is_read() -> None:
    weights = small()
    denoiser = read_consistency_checkpoint(saved(weights, _use_new_zipfile_serialization=False), head_channels=32).denoiser
    assert torch.equal(denoiser.model.get_parameter("out.2.weight"), weights["out.2.weight"])


@torch.no_grad()
def test_heads_are_of_64_channels_as_in_all_that_were_published() -> None:
    network = ConsistencyUNet(**SMALL | {"model_channels": 64, "head_channels": 64, "num_classes": 0})
    x, sigma = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1)
    for weight in network.parameters():
        weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(weight.numel()))
    ours = read_consistency_checkpoint(saved(network.state_dict())).denoiser
    torch.testing.assert_close(ours(x, sigma), ConsistencyPrecond(network.eval())(x, sigma))


def test_damaged_files_are_refused() -> None:
    data = saved(small()).getvalue()
    for place in (0, 1, 100, len(data) // 2, len(data) - 1):
        refused(io.BytesIO(data[:place]))
    refused(io.BytesIO(b"garbage"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pt.*No such file"):
        read_consistency_checkpoint(tmp_path / "nowhere.pt")


def test_code_is_not_executed(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    refused(io.BytesIO(pickle.dumps(Touch(), protocol=2)))
    refused(saved({"time_embed.0.weight": Touch()}))
    assert not (tmp_path / "executed").exists()


WRONG: dict[str, object] = {
    "nothing": {},
    "a tensor": torch.zeros(3),
    "a list": [torch.zeros(3)],
    "a training state": {"model": small(), "step": 3},
    "numbered weights": {1: torch.zeros(3)},
    "integers": {"time_embed.0.weight": torch.zeros(128, 32, dtype=torch.int64)},
    "numbers in 8 bits": small() | {"out.2.bias": torch.zeros(3).to(torch.float8_e4m3fn)},
    "no numbers at all": small() | {"out.2.bias": torch.zeros(3, device="meta")},
    "another network": {"conv.weight": torch.zeros(3, 3)},
    "an unfolded tensor": small() | {"out.2.bias": torch.zeros(1).expand(3)},
    "widths that don't fit": small() | {"time_embed.0.weight": torch.zeros(120, 30)},
    "a vector for a matrix": small() | {"time_embed.0.weight": torch.zeros(128)},
    "many stages": small() | {f"input_blocks.{index}.0.bias": torch.zeros(1) for index in range(2, 5000)},
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_contents_are_refused(kind: str) -> None:
    refused(saved(WRONG[kind]))


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    weights = small()
    name = "middle_block.1.qkv.weight"
    refused(saved({key: value for key, value in weights.items() if key != name}), says=name)
    refused(saved(weights | {"middle_block.3.weight": weights[name]}), says="middle_block.3.weight")
    refused(saved(weights | {name: weights[name][..., 0]}), says=name)
    refused(saved(weights), head_channels=24, says="24")
    refused(saved(weights | {name: weights[name] * float("nan")}), says=f"{name} has NaN or Inf")
    refused(saved(weights | {"label_emb.weight": torch.zeros(1 << 62, 0)}), says="larger than any memory")
