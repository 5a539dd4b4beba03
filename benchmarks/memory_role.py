"""One role of a recipe in a process of its own, or all in one: two steps of backtracking, and the peak memory above that of their code.

`python -m benchmarks.memory_role FOLDER ROLE`: FOLDER holds each role's class and arguments pickled, as Ray hands them to an actor,
so that a process imports what its role needs and nothing else.
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # checkpointing loads it at its first call: 70 MiB of code

from benchmarks.peak import peak_mib, resident_mib
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.cast import Cast
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import Switch
from disback_ray.algorithms.records import Field, Sample, Score

STEPS = 2
"""Adam's moments are there from the end of the first on."""
ROLES = ("teacher", "path_node", "fake_score", "generator")


def play(role: Any, name: str, batches: list[Batch], shape: tuple[int, ...]) -> None:
    """A step of one role, with numbers in place of what the others would send."""
    numbers = [batch.normal("stand-in", shape) for batch in batches]
    step = batches[0].step
    if name == "generator":
        samples = [role.propose(batch) for batch in batches]
        for sample, x in zip(samples, numbers, strict=True):
            role.descend(Field(sample.batch, x, 1.0))
        role.commit(step)
        return
    samples = [Sample(batch, x, None, step) for batch, x in zip(batches, numbers, strict=True)]
    if name != "fake_score":
        for sample in samples:
            role.score(sample)
        return
    for sample, x in zip(samples, numbers, strict=True):
        role.difference(role.score(sample), Score(sample.batch, x, 0), node=0)
    for sample in samples:
        role.fit(sample)
    role.commit(step)


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    said = json.loads((folder / "settings.json").read_text("utf-8"))
    # Our own pickles, of a moment ago.
    parts = {each: pickle.loads((folder / f"{each}.pkl").read_bytes()) for each in (ROLES if name == "all" else [name])}
    code = resident_mib()
    roles: dict[str, Any] = {each: kind(**arguments) for each, (kind, arguments) in parts.items()}
    if name in ("all", "fake_score"):
        roles["fake_score"].begin(backtracking.STAGE, node=2)
    if name == "path_node":
        roles["path_node"].load(1)

    def batches_of(stage: str, step: int) -> list[Batch]:
        return micro_batches(Batch(0, stage, step, 0, said["batch"]), said["micro_batches"])

    if name == "all":
        plan = [Switch(0, 1), Switch(1, 0)]
        for _ in backtracking.distribution_backtracking(Cast(**roles), plan, steps=STEPS, batches_of=batches_of):
            pass
    else:
        for step in range(STEPS):
            play(roles[name], name, batches_of(backtracking.STAGE, step), tuple(said["shape"]))
    print(peak_mib() - code)


if __name__ == "__main__":
    main()
