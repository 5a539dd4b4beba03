import subprocess
import sys

import pytest
import torch
from torch import nn

from disback_ray.algorithms import eager
from disback_ray.algorithms.optimiser import OptimiserSettings


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_a_step_is_that_of_torch(kind):
    ours, theirs = ([nn.Parameter(torch.linspace(-1, 1, 7))] for _ in range(2))
    settings = OptimiserSettings(lr=0.1, kind=kind, weight_decay=0.1)
    mine, other = settings.build(ours), settings.build(theirs)
    for _ in range(3):
        for parameter in (*ours, *theirs):
            parameter.grad = parameter.detach() ** 2 - 0.3
        eager.step(mine)
        other.step()
    assert torch.equal(ours[0], theirs[0])
    assert not torch.equal(ours[0], torch.linspace(-1, 1, 7))


def test_whoever_trains_never_loads_the_compiler():
    code = """if True:
        import sys, torch
        from disback_ray.algorithms.learner import Learner
        from disback_ray.algorithms.optimiser import OptimiserSettings
        module = torch.nn.Linear(2, 2)
        learner = Learner(module, OptimiserSettings(lr=0.1, clip=1.0), updates=2, name="generator")
        module(torch.ones(1, 2)).sum().backward()
        learner.gather(1)
        learner.update(0, samples=1)
        learner.restore(learner.state())
        print("torch._dynamo" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
