"""NaN comes with the keys of its samples, across processes too."""

import pickle

import pytest
import torch

from disback_ray.actors.mishaps import told
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Sample
from disback_ray.errors import NonFiniteError

BATCH = Batch(7, "backtracking", 12, 32, 16)
KEYS = {"seed": 7, "stage": "backtracking", "step": 12, "first": 32, "size": 16}


@pytest.mark.parametrize(
    ("method", "args", "keys"),
    [
        ("propose", (BATCH,), KEYS),
        ("fit", (Sample(BATCH, torch.zeros(1), None, 12),), KEYS),
        ("commit", (12,), {"step": 12}),
        ("draw", (), {}),
    ],
)
def test_nan_brings_its_keys(method: str, args: tuple[object, ...], keys: dict[str, object]) -> None:
    with pytest.raises(NonFiniteError, match="the loss is nan") as raised, told("fake_score", method, args):
        raise NonFiniteError("the loss is nan")
    sent = pickle.loads(pickle.dumps(raised.value))
    assert (str(sent), sent.keys) == ("the loss is nan", {"role": "fake_score", "method": method, **keys})
