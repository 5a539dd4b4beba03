"""What crosses between roles arrives as it was sent."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from disback_ray.actors.wire import Packed, pack, unpack
from disback_ray.algorithms.noise import Batch, KarrasNoise
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.records import Drawn, Sample
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec, ResNetMLPSpec
from disback_ray.storage import Folder

read_only = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # as in a role's process
VALUES = torch.tensor([[0.0, -1.5, 3e5], [1e-7, float("inf"), float("nan")]])
TENSORS = {
    **{str(kind): VALUES.to(kind) for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16)},
    **{str(kind): torch.arange(6).to(kind) for kind in (torch.int64, torch.uint8, torch.bool)},
    "a number": torch.tensor(2.5),
    "a number, bfloat16": torch.tensor(2.5, dtype=torch.bfloat16),
    "empty": torch.empty(0, 3),
    "turned": VALUES.T,
    "turned, bfloat16": VALUES.bfloat16().T,
    "trained": VALUES.clone().requires_grad_(),
}


def same(ours: Tensor, theirs: Tensor) -> bool:
    return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape) and torch.allclose(ours, theirs, 0, 0, equal_nan=True)


def sent(value: object) -> object:
    """As another process gets it."""
    return unpack(pickle.loads(pickle.dumps(pack(value))))


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
def test_a_tensor_arrives_with_its_type_and_shape(tensor: Tensor) -> None:
    arrived = sent(tensor)
    assert isinstance(arrived, Tensor)
    assert same(arrived, tensor.detach())
    assert not arrived.requires_grad


@dataclass(frozen=True)
class Nested:
    name: str
    inner: Drawn
    settings: KarrasNoise


@pytest.mark.parametrize("condition", [None, torch.tensor([1, 2])])
def test_records_arrive_with_all_that_they_hold(condition: Tensor | None) -> None:
    batch = Batch(0, "recording", 3, 2, 2)
    arrived = sent(Sample(batch, torch.ones(2, 3).bfloat16(), condition, 7))
    assert isinstance(arrived, Sample)
    assert (arrived.batch, arrived.generator_version) == (batch, 7)
    assert same(arrived.x0, torch.ones(2, 3).bfloat16())
    assert arrived.condition is None if condition is None else same(arrived.condition, condition)  # type: ignore[arg-type]
    nested = sent(Nested("a", Drawn(torch.ones(2), condition), KarrasNoise()))
    assert isinstance(nested, Nested)
    assert (nested.name, nested.settings) == ("a", KarrasNoise())
    assert same(nested.inner.x, torch.ones(2))


PLAIN = [
    None, 3, "x", {"loss": 1.0}, Drawn,
    Batch(0, "recording", 0, 0, 4), Folder("/tmp/run"), OptimiserSettings(lr=0.1),
    GeneratorSpec(DenoiserSpec(ResNetMLPSpec(), (2,), 0, 1.0), (2,), 0, 1.0),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_what_holds_no_tensor_passes_untouched(value: object) -> None:
    assert pack(value) is value
    assert unpack(value) is value


def test_no_tensor_of_torch_s_is_left_in_what_is_sent() -> None:
    packed = pack(Sample(Batch(0, "", 0, 0, 1), torch.ones(1), torch.tensor([1]), 0))
    assert isinstance(packed.x0, Packed)
    assert isinstance(packed.condition, Packed)
    assert isinstance(packed.batch, Batch)


@read_only
@pytest.mark.parametrize("bfloat16", [False, True])
def test_it_is_read_where_it_lies(bfloat16: bool) -> None:
    """Ray maps its store's memory for reading: nothing is copied, and computing with it is fine."""
    array = np.arange(4, dtype=np.uint16 if bfloat16 else np.float32)
    array.flags.writeable = False
    tensor = unpack(Packed(array, bfloat16))
    assert tensor.data_ptr() == array.__array_interface__["data"][0]
    assert (tensor + 1).shape == (4,)
