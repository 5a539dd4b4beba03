"""What an update holds in passing is bounded, and changes no number."""

import pytest
import torch
from torch import nn

from disback_ray.algorithms import optimiser
from disback_ray.algorithms.eager import step
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.planning.meter import Meter

ROWS, WIDE = 12, 1000


def parameters() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.full((WIDE,), row + 1.0)) for row in range(ROWS)]
    for row, parameter in enumerate(made):
        parameter.grad = torch.full((WIDE,), 0.1 * row)
    return made


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_tensors_are_updated_so_many_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where torch takes a group's tensors together."""
    monkeypatch.setattr(optimiser, "AT_ONCE", 3 * WIDE)
    plain, made = parameters(), parameters()
    settings = OptimiserSettings(lr=0.1, kind=kind)  # type: ignore[arg-type]
    ours = settings.build(made)
    theirs: torch.optim.Optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind](
        plain, lr=0.1, **({} if kind == "sgd" else {"weight_decay": 0.0})
    )
    for group in ours.param_groups:
        group["foreach"] = True
    for _ in range(2):
        step(ours)
        theirs.step()
    for one, other in zip(made, plain, strict=True):
        torch.testing.assert_close(one, other)
    with Meter() as meter:  # which doesn't know the number of steps, so last
        step(ours)
    assert meter.peak.all <= 1.1 * 3 * WIDE * 4, "a copy of three of twelve tensors"
