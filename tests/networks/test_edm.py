"""EDM's constructor arguments: the published networks have their published sizes, and training works on them."""

from typing import Any

import pytest
import torch
from torch import nn

from disback_ray.errors import CheckpointError
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.networks.preconditioning import ConsistencyPrecond, Preconditioning

SONG: dict[str, Any] = {"img_channels": 3, "model_type": "SongUNet", "model_channels": 128, "augment_dim": 9}
NCSNPP = {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
PUBLISHED: dict[str, tuple[dict[str, Any], float]] = {
    "CIFAR-10": (SONG | {"img_resolution": 32, "channel_mult": [2, 2, 2]}, 55.7),
    "FFHQ 64": (SONG | {"img_resolution": 64, "channel_mult": [1, 2, 2, 2]}, 61.8),
    "ImageNet 64": ({"img_resolution": 64, "img_channels": 3, "label_dim": 1000}, 295.9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_published_sizes(name: str) -> None:
    arguments, millions = PUBLISHED[name]
    with torch.device("meta"):
        denoiser = build_edm("EDMPrecond", arguments)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6 == pytest.approx(millions, abs=0.051)


TINY: dict[str, Any] = {"img_resolution": 8, "img_channels": 1, "label_dim": 4, "channel_mult": [1, 2], "num_blocks": 1}
NETWORKS: dict[str, dict[str, Any]] = {
    "DDPM++": TINY | {"model_type": "SongUNet", "model_channels": 8, "attn_resolutions": [4]},
    "NCSN++": TINY | {"model_type": "SongUNet", "model_channels": 8, "attn_resolutions": [8]} | NCSNPP,
    "ADM": TINY | {"model_type": "DhariwalUNet", "model_channels": 16, "attn_resolutions": [4]},
}


def small(name: str, **more: Any) -> Preconditioning:
    if name == "consistency":
        network = ConsistencyUNet(
            in_channels=1, out_channels=1, model_channels=32, num_res_blocks=1, channel_mult=(1, 2), num_classes=4, **more
        )
        denoiser: Preconditioning = ConsistencyPrecond(network, label_dim=4)
    else:
        denoiser = build_edm("EDMPrecond", NETWORKS[name] | more)
    for parameter in denoiser.parameters():  # a fresh network is nearly blind to its input, by design
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return denoiser


@pytest.fixture(params=[*NETWORKS, "consistency"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


X, SIGMA, LABELS = torch.linspace(-1, 1, 3 * 64).reshape(3, 1, 8, 8), torch.tensor([0.1, 1.0, 10.0]), torch.tensor([0, 3, -1])


def test_samples_do_not_see_each_other(name: str) -> None:
    denoiser = small(name).eval()
    together = denoiser(X, SIGMA, LABELS)
    assert together.shape == X.shape
    for index in range(3):
        alone = denoiser(X[index : index + 1], SIGMA[index : index + 1], LABELS[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-4, atol=1e-5)


def test_labels_and_noise_levels_are_seen_and_no_label_is_none(name: str) -> None:
    denoiser = small(name).eval()
    none = denoiser(X, SIGMA)
    torch.testing.assert_close(none, denoiser(X, SIGMA, torch.full((3,), -1)))
    labelled = denoiser(X, SIGMA, LABELS)
    changed = (labelled - none).flatten(1).norm(dim=1)
    assert changed[2] < 1e-4
    assert min(changed[:2].tolist()) > 1e-3


def test_every_weight_is_trained(name: str) -> None:
    denoiser = small(name)
    denoiser(X, SIGMA, LABELS).square().sum().backward()
    without = [key for key, weight in denoiser.named_parameters() if weight.grad is None or not weight.grad.any()]
    # Only a bias that a normalisation removes right after has no effect on the image.
    assert all(key.endswith("bias") for key in without)


def test_dropout_acts_in_training_only(name: str) -> None:
    denoiser = small(name, dropout=0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(denoiser(X, SIGMA, LABELS), denoiser(X, SIGMA, LABELS))
    denoiser.eval()
    assert torch.equal(denoiser(X, SIGMA, LABELS), denoiser(X, SIGMA, LABELS))


def test_a_fresh_network_starts_near_zero() -> None:
    denoiser = build_edm("EDMPrecond", NETWORKS["DDPM++"])
    assert denoiser.model(X, SIGMA, torch.zeros(3, 4)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("precond", "arguments", "says"),
    [
        ("iDDPMPrecond", NETWORKS["ADM"], "iDDPMPrecond"),
        ("EDMPrecond", NETWORKS["ADM"] | {"model_type": "NCSNpp"}, "NCSNpp"),
        ("EDMPrecond", NETWORKS["ADM"] | {"model_type": X}, "network a Tensor: only"),
        ("EDMPrecond", NETWORKS["ADM"] | {"dropout": [None, {"of": X}]}, r"dropout.*can't be \[None, \{'of': a Tensor\}\]"),
        ("EDMPrecond", NETWORKS["ADM"] | {"encoder_type": "residual"}, "encoder_type"),
        ("VPPrecond", NETWORKS["DDPM++"] | {"sigma_data": 0.5}, "sigma_data"),
        ("EDMPrecond", NETWORKS["DDPM++"] | {"model_channels": 0}, "model_channels"),
        ("EDMPrecond", NETWORKS["DDPM++"] | {"model_channels": 7}, "7 channels"),
        ("EDMPrecond", NETWORKS["DDPM++"] | {"model_channels": 130}, "num_channels"),
        ("EDMPrecond", NETWORKS["ADM"] | {"model_channels": 112}, "224 channels.* 3 attention heads"),
        ("EDMPrecond", NETWORKS["DDPM++"] | {"resample_filter": [1, "3"]}, "resample_filter"),
        ("EDMPrecond", NETWORKS["DDPM++"] | {"resample_filter": [1, 2, 1]}, "resample_filter"),  # 8 pixels halved and doubled: 7
        ("EDMPrecond", NETWORKS["DDPM++"] | {"resample_filter": [1, -1]}, "resample_filter"),
        ("EDMPrecond", NETWORKS["DDPM++"] | {"sigma_data": 0.0}, "sigma_data"),
        ("EDMPrecond", NETWORKS["DDPM++"] | {"sigma_min": 5.0, "sigma_max": 1.0}, "sigma_min 5 is not below sigma_max 1"),
        ("VEPrecond", NETWORKS["DDPM++"] | {"sigma_max": 10**400}, "sigma_max"),
        ("VPPrecond", NETWORKS["DDPM++"] | {"beta_d": 1e6}, "'beta_d': 1000000.0"),
        ("EDMPrecond", NETWORKS["DDPM++"] | {"img_resolution": 9}, "9 pixels"),
        ("EDMPrecond", {"img_resolution": 8}, "img_channels"),
    ],
)
def test_arguments_of_other_networks_are_refused(precond: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        build_edm(precond, arguments)


def test_arguments_of_each_preconditioning_reach_it() -> None:
    song = NETWORKS["DDPM++"]
    assert build_edm("EDMPrecond", song | {"sigma_data": 0.7}).sigma_data == 0.7
    assert build_edm("VEPrecond", song | {"sigma_max": 50, "use_fp16": True}).sigma_max == 50
    shorter = build_edm("VPPrecond", song | {"M": 100, "label_dropout": 0.1}).scalings(torch.ones(1)).noise
    torch.testing.assert_close(shorter * 999 / 99, build_edm("VPPrecond", song).scalings(torch.ones(1)).noise)
