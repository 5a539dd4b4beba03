"""What devices hold and how fast they compute: data sheets for GPUs, a measurement for this machine's cores."""

import time
from dataclasses import dataclass

import psutil
import torch

from disback_ray.errors import ConfigError

GIB = 1 << 30
UTILISED = 0.4
"""The share of a data sheet's FLOP/s that convolutions of these sizes reach; an assumption, and said so in the plan."""
CONTEXT, PROCESS = 0.6 * GIB, 0.4 * GIB
"""CUDA's own context and libraries on the card, and Python's with torch in host memory, of every process."""
FRAGMENTATION = 1.06
"""What torch's allocator holds beside what tensors ask for."""
REFERENCE = "GeForce-RTX-3090"


@dataclass(frozen=True)
class Card:
    """memory: bytes; fp32, bf16: FLOP/s of dense products, fp32 with TF32 where the card has it off by default as torch does."""

    name: str
    memory: float
    fp32: float
    bf16: float

    def seconds(self, flops: float, *, bf16: bool) -> float:
        return flops / (self.bf16 if bf16 else self.fp32)

    def fits(self, peak: float) -> bool:
        return self.needs(peak) <= self.memory

    def needs(self, peak: float) -> float:
        """What a process with this peak of tensors takes of the card."""
        return peak * FRAGMENTATION + CONTEXT


def _card(name: str, gib: float, fp32: float, bf16: float) -> Card:
    return Card(name, gib * GIB, fp32 * 1e12 * UTILISED, bf16 * 1e12 * UTILISED)


CARDS = {
    card.name: card
    for card in [  # vendors' data sheets: GiB, TFLOP/s of float32, of bfloat16 (float16 where there is none)
        _card("GeForce-RTX-3090", 24, 35.6, 71),
        _card("GeForce-RTX-4090", 24, 82.6, 165),
        _card("GeForce-RTX-3060", 12, 12.7, 25),
        _card("A10G", 24, 31.2, 70),
        _card("A100", 40, 19.5, 312),
        _card("A100-80G", 80, 19.5, 312),
        _card("H100", 80, 67, 989),
        _card("H200", 141, 67, 989),
        _card("L4", 24, 30.3, 121),
        _card("T4", 16, 8.1, 65),
        _card("V100", 32, 15.7, 125),
    ]
}


@dataclass(frozen=True)
class Cores(Card):
    """This machine without GPUs: its memory is the roles' together."""

    def needs(self, peak: float) -> float:
        return peak * FRAGMENTATION + PROCESS


def card(name: str) -> Card:
    """Raises ConfigError for one that isn't known."""
    if name not in CARDS:
        raise ConfigError(f"no figures are known for the accelerator {name}: name one of {', '.join(CARDS)} with --card")
    return CARDS[name]


def host(flops: float = 0.0) -> Cores:
    """This machine without GPUs. flops: each second, of one thread; 0 where they don't matter."""
    return Cores("this machine's cores", psutil.virtual_memory().total, flops, flops)


def cores() -> Card:
    """One thread of this machine, measured now on a convolution; bfloat16 counts as float32 there."""
    layer, x = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(4, 64, 32, 32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            layer(x)
            began, done = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < 0.2:
                layer(x)
                done += 1
    finally:
        torch.set_num_threads(threads)
    return host(done * 2 * x.numel() * 64 * 9 / spent)
