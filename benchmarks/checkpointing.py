"""What gradient checkpointing saves and costs: FFHQ 64's EDM network (DDPM++, 61.8 M parameters) at full size, forward and backward.

    python -m benchmarks.checkpointing --json FILE

Random weights, float32, on the CPU. Held is what the graph keeps between the two passes, by torch's allocator.
"""

import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import measured, options, publish
from benchmarks.memory import DDPMPP, SHAPE
from disback_ray.networks.checkpointing import Checkpointing, checkpoint_gradients
from disback_ray.networks.imported import EDMSpec

WAYS: tuple[Checkpointing, ...] = (False, "selective", True)


def main() -> None:
    parser = options("What gradient checkpointing saves, and the time that it costs.")
    parser.add_argument("--samples", type=int, default=1, help="in a pass (1)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (5)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = EDMSpec("EDMPrecond", DDPMPP).build(SHAPE, classes=0).eval()
    plain = {module: module.__class__ for module in network.modules()}
    x, sigma = torch.randn(given.samples, *SHAPE), torch.ones(given.samples)

    def become(how: Checkpointing) -> None:
        for module, kind in plain.items():
            module.__class__ = kind
        if how:
            checkpoint_gradients(network, how)

    seconds: dict[Checkpointing, list[float]] = {how: [] for how in WAYS}
    for _ in range(given.rounds + 1):
        for how in WAYS:
            become(how)
            start = time.perf_counter()
            network(x, sigma).sum().backward()
            seconds[how].append(time.perf_counter() - start)
    held = dict[Checkpointing, float]()
    for how in WAYS:
        become(how)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            out = network(x, sigma)
        events = profiler.profiler.kineto_results.events()
        held[how] = sum(event.nbytes() for event in events if event.name() == "[memory]") / 2**20
        del out
    taken = {how: statistics.median(rounds[1:]) for how, rounds in seconds.items()}  # the first makes the gradients
    results = []
    for how in WAYS:
        name = f"checkpointing: {str(how).lower()}"
        results.append(measured(f"{name}, forward and backward", taken[how], "s", baseline=taken[False]))
        results.append(measured(f"{name}, held between them", held[how], "MiB", baseline=held[False]))
    publish("checkpointing", results, file=given.json, samples=given.samples, rounds=given.rounds, threads=1)


if __name__ == "__main__":
    main()
