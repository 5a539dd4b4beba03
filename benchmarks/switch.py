"""What a switch to the next node of the path holds up, and a checkpoint.

FFHQ 64's EDM network (DDPM++, 61.8 M parameters) at full size, on the CPU.

The path node's role loads a node, prefetched as a run does or not, against a step of the busiest role, the fake score's. One
thread each; a step of one sample is the shortest that there is (--batch). For a checkpoint the fake score copies its weights, their
moments and all else that it goes on from; that is written aside.

    python -m benchmarks.switch --json switch.json
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import measured, options, publish
from benchmarks.memory import RECIPE, SHAPE, prepare, settings
from benchmarks.memory_role import play
from disback_ray.actors.parts import Places, parts
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.noise import Batch
from disback_ray.config import load_recipe
from disback_ray.storage import Folder


def seconds(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def main() -> None:
    parser = options(str(__doc__).splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="switches of each kind, and steps (3)")
    parser.add_argument("--batch", type=int, default=1, help="samples of a step (1)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        at = Folder.at(folder)
        prepare(at)
        made = parts(
            load_recipe(RECIPE, overrides=settings(given.batch)), Places(at / "teacher", at / "whole", at / "cache"), seed=0
        )
        roles = {name: made[name][0](**made[name][1]) for name in ("path_node", "fake_score")}
        node, fake = roles["path_node"], roles["fake_score"]
        fake.begin(backtracking.STAGE, node=0)
        cold, warm, kept, steps = list[float](), list[float](), list[float](), list[float]()
        for index in range(given.times):
            steps.append(seconds(partial(play, fake, "fake_score", [Batch(0, backtracking.STAGE, index, 0, given.batch)], SHAPE)))
            kept.append(seconds(lambda: fake.snapshot().copied()))
            cold.append(seconds(partial(node.load, 1)))
            node.prefetch(2)
            node.next.ahead.weights.result()  # a run begins to read a node ten steps before its switch
            warm.append(seconds(partial(node.load, 2)))
    step = statistics.median(steps)
    results = [
        measured("load of a prefetched node, against a step of the fake score", statistics.median(warm), "s", baseline=step, at_most=0.05),
        measured("copy of the fake score for a checkpoint", statistics.median(kept), "s", baseline=step, at_most=0.05),
        measured("load of a node that was not prefetched", statistics.median(cold), "s", baseline=step),
    ]  # fmt: skip
    publish("switch", results, file=given.json, recipe=RECIPE, batch=given.batch, threads=1)


if __name__ == "__main__":
    main()
