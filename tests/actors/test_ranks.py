"""Roles in two processes each, over gloo: the same numbers as in one process, to float32 rounding, whichever way the model is kept."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.cast import Cast
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.path import switches
from disback_ray.algorithms.ranks import Ranks
from disback_ray.algorithms.records import Drawn
from disback_ray.storage import Folder
from disback_ray.teachers.path_nodes import load_node

PLAN = switches(2, 1, total=4)
WANTED = Drawn(torch.empty(70, 2), None)


def played(troupe: Any, cast: Cast, wait: Any, out: Folder, between: Any = lambda: None) -> dict[str, Any]:
    """Both stages; a checkpoint after two of the four steps, and once more from there. What the roles tell, and leave."""
    told: list[Any] = []

    def tell(results: Any) -> None:
        """Where each rank was asked, the last one's answer: all of them have the same."""
        told.extend(each[-1] if isinstance(each, list) else each for each in wait(list(results)))

    wait(cast.fake_score.begin(degradation.STAGE, node=0))
    for step in degradation.degradation_recording(cast, troupe.marks, batches_of=troupe.batches):
        tell(step.results)
    wait(cast.fake_score.begin(backtracking.STAGE, node=len(troupe.marks)))
    steps = troupe.play(cast, PLAN)
    for _ in range(2):
        tell(next(steps).results)
    proofs = wait([role.write(role.snapshot(), out) for role in (cast.fake_score, cast.generator)])
    between()
    for step in steps:
        tell(step.results)
    digests = wait([cast.fake_score.digest(), cast.generator.digest()])
    wait([
        cast.fake_score.load(out, stage=backtracking.STAGE, sha256=proofs[0]["sha256"]),
        cast.generator.load(out, sha256=proofs[1]["sha256"]),
    ])  # fmt: skip
    for step in troupe.play(cast, PLAN, start=2):
        wait(list(step.results))
    assert wait([cast.fake_score.digest(), cast.generator.digest()]) == digests, "on from its checkpoint as straight on"
    wait(cast.generator.export(out / "generator"))
    weights = {f"node-{node}.{name}": t for node in (1, 2) for name, t in load_node(troupe.path, node).items()}
    for file in ("generator/model", "generator/raw", "fake_score", "generator"):
        folder, _, name = file.rpartition("/")
        tensors = (out / folder if folder else out).read_tensors(f"{name}.safetensors")
        weights |= {f"{file}.{key}": tensor for key, tensor in tensors.items()}
    drawn = wait(cast.generator.draw(WANTED, seed=3)).x
    return {
        "told": [numbers for numbers in told if numbers],
        "weights": weights,
        "drawn": drawn,
        "digests": digests,
    }


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize(("fake", "generator"), [("fsdp", "ddp"), pytest.param("ddp", "fsdp", marks=pytest.mark.long)])
def test_two_ranks_are_one_role(troupe: Any, stage_of: Any, attached: str, tmp_path: Path, fake: str, generator: str) -> None:
    """Adam's moments and all; plain SGD for s_φ, whose path is longer: Adam magnifies rounding where a gradient is about zero."""
    troupe = troupe.but(
        micro_batches=4, steps=4, marks=(1, 3), fake_updates=2, optimiser=OptimiserSettings(lr=0.02, kind="sgd", clip=1.0)
    )
    alone = played(troupe, troupe.cast(), lambda value: value, Folder.at(tmp_path / "alone"))
    cast, recovery = stage_of(troupe.parts(), groups={"fake_score": fake, "generator": generator})
    pids = [recovery.seats[f"{role}/{rank}"]["pid"] for role in ("fake_score", "generator") for rank in (0, 1)]
    assert len({*pids, os.getpid()}) == 5

    def lose_one(pid: int = pids[1], loses: bool = fake == "fsdp") -> None:
        if loses:
            os.kill(pid, signal.SIGKILL)

    together = played(troupe, cast, recovery.wait, Folder.at(tmp_path / fake), lose_one)
    lost = {role for event in recovery.audience.events for role in event.roles}
    assert fake == "ddp" or "fake_score/0" in lost, "the group is lost, and built again, as one"
    assert together["told"] == [pytest.approx(numbers, rel=1e-4) for numbers in alone["told"]]
    assert together["weights"].keys() == alone["weights"].keys()
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(together["drawn"], alone["drawn"], rtol=1e-4, atol=1e-5)
    accounts, clocks = recovery.accounts()
    scores = [accounts[f"fake_score/{rank}"].totals["score"].calls for rank in (0, 1)]
    assert scores[0] == scores[1] > 0, "each rank takes every other micro-batch"
    assert all(abs(late) < 5 for late in clocks.values()), "these machines are one; the rest is how long an answer took"


LISTENING = """
import sys
import psutil, torch
import torch.distributed as dist
from disback_ray.algorithms.ranks import Ranks, join

rank, port = map(int, sys.argv[1:])
join(Ranks(rank, 2, "ddp"), address="127.0.0.1", port=port, timeout=60)
total = torch.full((3,), rank + 1.0)
dist.all_reduce(total)
print(total.tolist(), {c.laddr.ip for c in psutil.Process().net_connections() if c.status == "LISTEN"})
dist.barrier()
"""


def test_ranks_that_meet_at_loopback_listen_nowhere_else() -> None:
    """Whatever address the machine's name has: gloo would listen there, and torch's store everywhere."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    commands = [[sys.executable, "-c", LISTENING, str(rank), str(port)] for rank in (0, 1)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [rank.communicate(timeout=120)[0].strip() for rank in ranks]
    assert said == ["[3.0, 3.0, 3.0] {'127.0.0.1'}"] * 2


def test_alone_nothing_is_summed_gathered_or_cut() -> None:
    ranks, tensors = Ranks(), {"weights.a": torch.ones(2)}
    module = torch.nn.Linear(2, 1)
    module.weight.grad = torch.ones(1, 2)
    ranks.sum_gradients(module.parameters())
    assert ranks.sum(1.5, 2.0) == [1.5, 2.0]
    assert torch.equal(module.weight.grad, torch.ones(1, 2))
    for same in (ranks.whole(tensors), ranks.cut(tensors, module)):
        assert same["weights.a"] is tensors["weights.a"]
    assert ranks.settle(module, torch.device("cpu")) is module


def test_gradients_cross_in_bounded_buckets_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    from disback_ray.algorithms import ranks

    sent: list[Tensor] = []

    def doubled(flat: Tensor) -> None:
        sent.append(flat.clone())
        flat.mul_(2)

    monkeypatch.setattr(ranks, "BUCKET_ELEMENTS", 5)
    monkeypatch.setattr(ranks.dist, "all_reduce", doubled)
    shapes = [(3,), (2, 1), (4,), (7,), (1,)]
    parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16 if shape == (1,) else None)) for shape in shapes]
    for index, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, index + 1)
    Ranks(0, 2).sum_gradients([*parameters, torch.nn.Parameter(torch.zeros(2))])
    assert [len(flat) for flat in sent] == [5, 4, 7, 1]
    assert [parameter.grad.flatten()[0].item() for parameter in parameters] == [2, 4, 6, 8, 10]
