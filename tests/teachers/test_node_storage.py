"""Nodes in half, a quarter and an eighth of their bytes: how far what comes back may be from what was kept, and that no file lies."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.networks.spec import DDPMppSpec, DenoiserSpec, ResNetMLPSpec
from disback_ray.storage import Folder, digest
from disback_ray.teachers.node_storage import NodeStorage, halves
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.saved import save_denoiser

MLP = DenoiserSpec(ResNetMLPSpec(width=128, blocks=2), (2,), 0, 1.0)
U_NET = DenoiserSpec(DDPMppSpec(channels=16, multipliers=(1,)), (1, 8, 8), 0, 0.5)


def moved(weights: dict[str, Tensor], *, by: float = 0.1) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        name: value + by * torch.randn(value.shape, generator=draw) if value.is_floating_point() else value
        for name, value in weights.items()
    }


@pytest.fixture
def copies_of(tmp_path: Path) -> Any:
    def make(kind: Any, spec: DenoiserSpec = MLP, **more: Any) -> PathCopies:
        teacher = Folder.at(tmp_path / spec.network.kind)
        save_denoiser(teacher, spec, spec.build(seed=3).state_dict())
        return PathCopies(teacher, Folder.at(tmp_path / f"path-{kind}"), storage=NodeStorage(kind, **more))

    return make


def kept(copies: PathCopies) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    """What a node was, what comes back, and the names of what may have been rounded."""
    denoiser = copies.build()
    trained = {name for name, _ in denoiser.named_parameters()}
    weights = moved({name: value for name, value in denoiser.state_dict().items() if name in trained})
    weights = denoiser.state_dict() | weights
    matrices = copies.matrices(denoiser)
    copies.keep(weights, 1, step=7, matrices=matrices)
    assert matrices == {name for name in trained if weights[name].ndim > 1}
    return weights, copies.read(1), matrices


@pytest.mark.parametrize("spec", [MLP, U_NET], ids=["mlp", "u-net"])
@pytest.mark.parametrize("kind", ["bf16", "int8", "low_rank"])
def test_only_matrices_are_rounded_and_within_their_bounds(kind: str, spec: DenoiserSpec, copies_of: Any) -> None:
    """bfloat16 has 8 bits: 2⁻⁸ of the number. int8: half a step, of 127 to the largest weight of an output channel."""
    copies = copies_of(kind, spec)
    weights, back, matrices = kept(copies)
    assert digest({name: back[name] for name in weights if name not in matrices}) == digest(
        {name: weights[name] for name in weights if name not in matrices}
    )
    assert any(not torch.equal(back[name], weights[name]) for name in matrices)
    for name in matrices:
        off = (back[name] - weights[name]).abs()
        if kind == "bf16":
            assert (off <= weights[name].abs() * 2.0**-8).all()
        if kind == "int8":
            half = weights[name].flatten(1).abs().amax(1) / 127 / 2
            assert (off.flatten(1).amax(1) <= half * (1 + 1e-5)).all()
    fresh = copies.build()
    copies.put(fresh, back, node=1)
    assert digest(fresh.state_dict()) == digest(back), "read() gives all that a copy has, in its types"


def test_what_is_not_trained_is_not_rounded(copies_of: Any) -> None:
    denoiser = (copies := copies_of("int8")).build()
    frozen = min(copies.matrices(denoiser))
    denoiser.get_parameter(frozen).requires_grad_(False)
    assert frozen not in copies.matrices(denoiser)


def test_a_channel_of_zeros_and_the_largest_weight_are_exact() -> None:
    matrix = torch.tensor([[0.0, 0.0, 0.0], [127.0, -63.4, 1.0], [1e-44, 0.0, -1e-44]])
    packed, _ = NodeStorage("int8").pack({"w": matrix}, matrices={"w"}, base=lambda: ("", {}))
    assert packed["w:int8"].tolist()[:2] == [[0, 0, 0], [127, -63, 1]]
    assert torch.isfinite(packed["w:scale"]).all()


@pytest.mark.parametrize(("rows", "columns"), [(12, 40), (40, 12)])
def test_a_low_rank_is_the_best_there_is_of_that_rank(rows: int, columns: int) -> None:
    """Eckart and Young: what is left has the squares of the other singular values; nothing, where there are no others."""
    draw = torch.Generator().manual_seed(2)
    matrix = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    for rank in (1, 5, 11):
        parts = halves(matrix, rank)
        left, right = (parts[name].double() for name in ("left", "right"))
        assert (left.shape, right.shape) == ((rows, rank), (rank, columns))
        least = torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt()
        torch.testing.assert_close((matrix - left @ right).norm(), least, rtol=1e-6, atol=0)
    of_rank_5 = matrix[:, :5] @ torch.randn(5, columns, generator=draw, dtype=torch.float64)
    parts = halves(of_rank_5, 5)
    assert (of_rank_5 - parts["left"].double() @ parts["right"].double()).norm() < 1e-6 * of_rank_5.norm()


def test_what_has_the_rank_comes_back_to_float32_rounding(copies_of: Any) -> None:
    copies = copies_of("low_rank", rank=3)
    denoiser = copies.build()
    matrices, weights = copies.matrices(denoiser), dict(denoiser.state_dict())
    draw = torch.Generator().manual_seed(4)
    for name in matrices:
        left, right = (torch.randn(size, 3, generator=draw) for size in weights[name].shape)
        weights[name] = weights[name] + 0.1 * left @ right.T
    copies.keep(weights, 1, step=7, matrices=matrices)
    for name, value in copies.read(1).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize(("kind", "portion"), [("bf16", 0.5), ("int8", 0.25), ("low_rank", 0.125)])
def test_what_they_take_on_disk(kind: str, portion: float, copies_of: Any) -> None:
    """Of matrices of 128 × 128; vectors, scales and names on top."""
    weights, _, matrices = kept(copies := copies_of(kind))
    large = sum(weights[name].nbytes for name in matrices if min(weights[name].shape) == 128)
    rest = sum(value.nbytes for value in weights.values()) - large
    size = (copies.path.local_path / "node-1.safetensors").stat().st_size
    assert portion * large < size < portion * large + rest + 0.01 * large + 4000


def test_in_full_the_file_is_what_it_always_was(copies_of: Any) -> None:
    weights, back, _ = kept(copies := copies_of("fp32"))
    assert digest(back) == digest(weights)
    assert copies.path.read_json("node-1.json").keys() == {"node", "step", "weights"}
    assert copies.path.write_tensors("again", weights)["sha256"] == copies.proof(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"storage": {"kind": "int4"}}, "damaged: its storage is 'int4'"),
        ({"storage": {"kind": []}}, r"damaged: its storage is \[\]"),
        ({"storage": {}}, "damaged: its weights are not stored as it says: 'kind'"),
        ({"storage": "int8"}, "damaged: its storage is 'int8'"),
        ({"storage": {"kind": "low_rank", "base": "0" * 64}}, "difference to other weights of the teacher: 000000000000"),
        ({"storage": {"kind": "low_rank"}}, "damaged: its weights are not stored as it says: 'base'"),
    ],
)
def test_a_json_that_lies_is_refused_in_one_line(change: dict[str, Any], said: str, copies_of: Any) -> None:
    kept(copies := copies_of("low_rank"))
    file = copies.path.local_path / "node-1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=said) as refused:
        copies.read(1)
    assert "\n" not in str(refused.value)
    assert "node-1.json" in str(refused.value)


@pytest.mark.parametrize("gone", ["right", "scale"])
def test_half_of_what_a_weight_is_stored_as_is_none(gone: str, copies_of: Any) -> None:
    copies = copies_of("low_rank" if gone == "right" else "int8")
    weights, _, matrices = kept(copies)
    packed, says = copies.storage.pack(weights, matrices=matrices, base=copies._base)
    name = next(name for name in packed if name.endswith(f":{gone}"))
    del packed[name]
    proof = copies.path.write_tensors("node-1.safetensors", packed)
    copies.path.write_json("node-1.json", {"node": 1, "step": 7, "weights": proof, "storage": says})
    with pytest.raises(CheckpointError, match="its weights are not stored as it says"):
        copies.read(1)


@pytest.mark.parametrize("kind", ["bf16", "int8", "low_rank"])
def test_weights_that_are_not_finite_are_not_kept_smaller(kind: str, copies_of: Any) -> None:
    copies = copies_of(kind)
    denoiser = copies.build()
    matrices = copies.matrices(denoiser)
    weights = dict(denoiser.state_dict())
    weights[min(matrices)] = weights[min(matrices)] * torch.inf
    with pytest.raises(CheckpointError, match=f"recording.store: {kind}: .* has NaN or Inf"):
        copies.keep(weights, 1, step=7, matrices=matrices)
    assert copies.path.names() == []
