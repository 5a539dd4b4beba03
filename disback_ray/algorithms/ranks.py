"""One role on several devices: ranks that take turns at the micro-batches of a step and train one model together.

`ddp`: each rank holds the whole model, and gradients are added once a step: several micro-batches are under way at a time, which
torch's DistributedDataParallel, made for one backward pass after each forward pass, doesn't have. `fsdp`: FSDP2's fully_shard.
"""

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

Sharding = Literal["ddp", "fsdp"]
BUCKET_ELEMENTS = 8_000_000


@dataclass(frozen=True)
class Ranks:
    """Which of how many this process is. Alone, everything is as it is without."""

    rank: int = 0
    count: int = 1
    sharding: Sharding = "ddp"

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        return self.count > 1 and self.sharding == "fsdp"

    def settle(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module on the device, or this rank's part of it where sharding is `fsdp`: its blocks are whole one at a time."""
        if not self.sharded:
            return module.to(device)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.count,))
        for holder in reversed(list(module.modules())):  # what is within first: a shard can't be sharded
            if isinstance(holder, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
                for block in holder.children():
                    fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each rank's gradients → their sum, in every rank (or in the rank that holds the shard)."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.sharded:
            for gradient in gradients:
                gradient.mul_(self.count)  # FSDP took the mean
        elif self.count > 1:
            for bucket in _buckets(gradients):
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(flat)
                for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                    gradient.copy_(part.view_as(gradient))

    def sum(self, *numbers: float) -> list[float]:
        """The sums over all ranks."""
        if self.count == 1:
            return list(numbers)
        on = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        together = torch.tensor(numbers, dtype=torch.float64, device=on)
        dist.all_reduce(together)
        return list(map(float, together))

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shards → whole tensors in host memory, one after the other, for the first rank alone; the others get none."""
        if not self.sharded:
            return dict(tensors)
        gathered = {}
        for name, tensor in tensors.items():
            full = full_tensor(tensor)
            if self.first:
                gathered[name] = full.cpu()
        return gathered

    def cut(self, tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """Undoes whole(), of weights and of what an optimiser keeps for each, in every rank. tensors: whole, by a Learner's names."""
        if not self.sharded:
            return dict(tensors)
        from torch.distributed.tensor import DTensor, distribute_tensor

        weights = module.state_dict()
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        cut = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            like = parameters[int(rest.partition(".")[0])] if kind == "optimiser" else weights.get(rest)
            if isinstance(like, DTensor) and like.shape == tensor.shape:  # not a count of steps, which is the same in every rank
                where = like.device_mesh, like.placements
                tensor = distribute_tensor(tensor.to(like.device), *where, src_data_rank=None)  # every rank has read the file
            cut[name] = tensor
        return cut

    @contextmanager
    @torch.no_grad()
    def lent(self, module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """The sharded module with other weights, or some of them, until the block ends."""
        own = {name: tensor.clone() for name, tensor in module.state_dict().items() if name in weights}
        _copy(weights, module)
        try:
            yield module
        finally:
            _copy(own, module)


ALONE = Ranks()


def join(ranks: Ranks, *, address: str, port: int, timeout: float) -> None:
    """Makes this process one of the ranks: nccl between GPUs, gloo between CPUs. The first rank's machine has the address.

    They listen there alone, which is loopback in a private cluster: who reaches their ports can disturb them, and no token is asked for.
    Once they have met, a rank's death raises in all others. timeout: seconds for the others to come, and for each collective call.
    """
    if ranks.count == 1:
        return
    if dist.is_initialized():
        dist.destroy_process_group()
    if ipaddress.ip_address(address).is_loopback:
        name = next(name for _, name in socket.if_nameindex() if name in ("lo", "lo0"))
        os.environ.update(GLOO_SOCKET_IFNAME=name, NCCL_SOCKET_IFNAME=name)
    limit = timedelta(seconds=timeout)
    listening = socket.create_server((address, port)).detach() if ranks.first else None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, ranks.count, is_master=ranks.first, timeout=limit, master_listen_fd=listening
    )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.count, timeout=limit)


def is_of_a_peer(error: RuntimeError) -> bool:
    """Whether a collective call failed because another rank is gone, or didn't come."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "nccl" in str(error).lower()


def full_tensor(tensor: Tensor) -> Tensor:
    """A shard → the whole; any other tensor is whole. All ranks have to ask for it."""
    gather = getattr(tensor, "full_tensor", None)  # torch.distributed.tensor takes a second to import
    return tensor if gather is None else gather()


def _copy(weights: Mapping[str, Tensor], module: nn.Module) -> None:
    own = module.state_dict()
    for name, tensor in weights.items():
        own[name].copy_(tensor)


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Of one type each, and of a bounded size: what is sent at once is held twice."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (sum(g.numel() for g in bucket) + gradient.numel() > BUCKET_ELEMENTS or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
