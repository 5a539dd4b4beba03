"""Our networks against what the official code computed with the same weights: float32, CPU, relative error ≤ 1e-4."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from disback_ray.algorithms.sampling import heun
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.networks.preconditioning import ConsistencyPrecond

HERE = Path(__file__).parent
EDM = ["edm_ddpmpp_uncond", "edm_ncsnpp_cond", "edm_adm_cond", "vp_ddpmpp_uncond", "ve_ncsnpp_uncond"]
CONSISTENCY = ["cm_cond", "cm_uncond_lsun_style"]


def read(name: str) -> tuple[dict[str, Any], str, dict[str, Tensor], dict[str, Tensor]]:
    """The constructor's arguments, the preconditioning, the weights, and the inputs and outputs of one file."""
    with safe_open(HERE / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    vectors = {key: value for key, value in tensors.items() if not key.startswith("state.")}
    return json.loads(metadata["init_kwargs"]), metadata.get("precond", ""), weights, vectors


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_every_file_is_checked() -> None:
    assert {path.stem for path in HERE.glob("*.safetensors")} == {*EDM, *CONSISTENCY}


@pytest.mark.parametrize("name", EDM)
@torch.no_grad()
def test_edm_denoiser_and_heun_sampler(name: str) -> None:
    arguments, precond, weights, vectors = read(name)
    denoiser = build_edm(precond, arguments).eval()
    denoiser.load_state_dict(weights, strict=True)
    labels = vectors.get("labels")
    assert difference(denoiser(vectors["x"], vectors["sigma"], labels), vectors["denoised"]) < 1e-4
    if labels is not None:
        ids = labels.argmax(dim=1)
        assert difference(denoiser(vectors["x"], vectors["sigma"], ids), vectors["denoised"]) < 1e-4
    samples = heun(
        denoiser,
        vectors["latents"],
        labels,
        steps=6,
        sigma_min=max(0.002, denoiser.sigma_min),
        sigma_max=min(80.0, denoiser.sigma_max),
        round_sigma=denoiser.round_sigma,
    )
    assert difference(samples, vectors["heun6"]) < 1e-4


@pytest.mark.parametrize("name", CONSISTENCY)
@torch.no_grad()
def test_consistency_model(name: str) -> None:
    arguments, _, weights, vectors = read(name)
    classes = 1000 if arguments["class_cond"] else 0
    network = ConsistencyUNet(
        model_channels=arguments["num_channels"],
        num_res_blocks=arguments["num_res_blocks"],
        channel_mult=[int(mult) for mult in arguments["channel_mult"].split(",")],
        attention_factors=[arguments["image_size"] // int(arguments["attention_resolutions"])],
        head_channels=arguments["num_head_channels"],
        num_classes=classes,
        scale_shift=arguments["use_scale_shift_norm"],
        dropout=arguments["dropout"],
    ).eval()
    network.load_state_dict(weights, strict=True)
    boundary = ConsistencyPrecond(network, label_dim=classes)
    standard = ConsistencyPrecond(network, kind="standard", label_dim=classes)
    labels = vectors.get("y")
    assert difference(boundary(vectors["x"], vectors["sigma"], labels), vectors["consistency"]) < 1e-4
    assert difference(standard(vectors["x"], vectors["sigma"], labels), vectors["edm_denoised"]) < 1e-4
    latents = vectors["latents"]
    # The vectors hold one step before its clamp to [-1, 1].
    one_step = boundary(80 * latents, torch.full((len(latents),), 80.0), labels)
    assert difference(one_step, vectors["one_step"]) < 1e-4
