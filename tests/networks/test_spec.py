"""Networks as settings: through JSON and back, the same weights from the same seed, and a denoiser as a one-step generator."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from disback_ray.errors import CheckpointError
from disback_ray.networks.spec import DDPMppSpec, DenoiserSpec, Direct, GeneratorSpec, MLPSpec, OneStep, ResNetMLPSpec
from disback_ray.storage import digest

POINTS = DenoiserSpec(ResNetMLPSpec(width=8, blocks=1), (2,), 0, 1.4)
IMAGES = DenoiserSpec(DDPMppSpec(channels=8, multipliers=(1, 2), attention=(4,), dropout=0.1), (1, 8, 8), 10, 0.5)
SPECS: list[DenoiserSpec | GeneratorSpec] = [
    POINTS,
    IMAGES,
    GeneratorSpec(IMAGES, (1, 8, 8), 10, 80.0),
    GeneratorSpec(POINTS, (2,), 0, 2.0),
    GeneratorSpec(MLPSpec(width=8), (2,), 0, 1.0),
]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{type(spec).__name__}-{type(spec.network).__name__}")


@every_spec
def test_json_round_trip(spec: DenoiserSpec | GeneratorSpec) -> None:
    again = type(spec).from_json(json.loads(json.dumps(spec.to_json() | {"weights": {"sha256": "…"}})))
    assert again == spec
    assert digest(again.build(seed=1).state_dict()) == digest(spec.build(seed=1).state_dict())


@every_spec
def test_the_seed_alone_decides_the_first_weights(spec: DenoiserSpec | GeneratorSpec) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = digest(spec.build(seed=1).state_dict())
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left as it was"
    torch.manual_seed(6)
    assert digest(spec.build(seed=1).state_dict()) == first
    assert digest(spec.build(seed=2).state_dict()) != first


@every_spec
def test_no_dropout_so_that_a_step_can_be_replayed(spec: DenoiserSpec | GeneratorSpec) -> None:
    assert not any(module.training for module in spec.build().modules())


SETTINGS: dict[str, Any] = GeneratorSpec(POINTS, (2,), 0, 2.0).to_json()


@pytest.mark.parametrize(
    "settings",
    [
        None, [], "resnet-mlp", {},
        SETTINGS | {"network": None},
        SETTINGS | {"network": {"kind": "transformer"}},
        SETTINGS | {"network": {"kind": "mlp", "depth": 3}},
        SETTINGS | {"network": SETTINGS["network"] | {"network": {"kind": ["mlp"]}}},
        SETTINGS | {"shape": 2},
        {name: value for name, value in SETTINGS.items() if name != "classes"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [GeneratorSpec, DenoiserSpec])
def test_other_settings_are_refused(kind: type[GeneratorSpec] | type[DenoiserSpec], settings: Any) -> None:
    with pytest.raises(CheckpointError, match="not the settings of a"):
        kind.from_json(settings)


class Told(nn.Module):
    """A denoiser that only notes what it is asked."""

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        self.asked = x, sigma, condition
        return x / 7


@pytest.mark.parametrize("condition", [None, torch.tensor([1, 2, 0])])
def test_a_denoiser_generates_in_one_step(condition: Tensor | None) -> None:
    """G(z, c) = D(σ_init z, σ_init, c)."""
    z, told = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)), Told()
    x0 = OneStep(told, sigma_init=2.5)(z, condition)
    asked, sigma, passed = told.asked
    assert torch.equal(asked, 2.5 * z)
    assert sigma.tolist() == [2.5] * 3
    assert passed is condition
    assert torch.equal(x0, asked / 7)


def test_a_plain_network_generates_as_it_is() -> None:
    z, network = torch.ones(3, 2), nn.Linear(2, 2)
    assert torch.equal(Direct(network)(z), network(z))
    with pytest.raises(AssertionError, match="no condition"):
        Direct(network)(z, torch.tensor([1, 2, 0]))


def test_generators_of_each_kind_have_their_samples_shape() -> None:
    for spec in SPECS[2:]:
        assert isinstance(spec, GeneratorSpec)
        condition = torch.tensor([0, 9, -1]) if spec.classes else None
        assert spec.build()(torch.ones(3, *spec.shape), condition).shape == (3, *spec.shape)


@pytest.mark.parametrize("network", [MLPSpec(), DenoiserSpec(DDPMppSpec(), (1, 8, 8), 0, 0.5)])
def test_a_generator_has_its_network_s_samples(network: MLPSpec | DenoiserSpec) -> None:
    honest = GeneratorSpec(network, (2,) if isinstance(network, MLPSpec) else network.shape, 0, 2.5)
    assert GeneratorSpec.from_json(json.loads(json.dumps(honest.to_json()))) == honest
    with pytest.raises(CheckpointError, match=r"\(1, 16, 16\), 0 classes: not its network's"):
        GeneratorSpec.from_json(honest.to_json() | {"shape": [1, 16, 16]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": []}, "shape: tuple should have at least 1 item"),
        ({"shape": [2, "x"]}, "shape.1: input should be a valid integer"),
        ({"classes": None}, "classes: input should be a valid integer"),
        ({"sigma_data": {"a": 1}}, "sigma_data: input should be a valid number"),
        ({"network": {"kind": "resnet-mlp", "width": None}}, "width: input should be a valid integer"),
        ({"network": {"kind": "resnet-mlp", "width": -3}}, "width: input should be greater than or equal to 1"),
        ({"network": {"kind": "resnet-mlp", "blocks": 1.5}}, "blocks: input should be a valid integer"),
        ({"network": {"kind": "resnet-mlp", "[" * 5000: 1}}, "[[["),
        ({"network": {"kind": ["resnet-mlp"]}}, "unhashable"),
        ({"shape": [3, 8]}, "its samples are of shape (3, 8), not 1 numbers"),
        ({"network": {"kind": "ddpmpp"}, "shape": [3, 8]}, "its samples are of shape (3, 8), not 3 numbers"),
    ],
)
def test_settings_of_another_kind_are_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    """What a fuzzer came to in 100,000 cases, each of which had been an error somewhere in the network."""
    honest = DenoiserSpec(ResNetMLPSpec(width=8), (2,), 0, 0.5).to_json()
    assert DenoiserSpec.from_json(honest).to_json() == honest
    with pytest.raises(CheckpointError) as refused:
        DenoiserSpec.from_json(honest | change)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
