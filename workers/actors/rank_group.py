"""The trainer's ranks among themselves: who they are and what they tell each other.

    rank 0      open_store(host) ──> address ─┐
    all ranks   join(address) ────────────────┴─> gather, from_first, sum, ... ──> close

Every method but the properties is collective: all ranks call it, in the same order. A single rank needs no process
group, and its methods hand back what they are given.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, if not by mypy's rules
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from workers.objectives.base import ObjectiveOutput
from workers.objectives.step_metrics import merged

JOIN_S = 900.0
"""How long the first rank may wait for the last one to start."""
COLLECTIVE_S = 1800.0
"""How long a rank may wait for the others, who may be writing or checking a large checkpoint. A lost rank is noticed
sooner, by the driver, which then ends all of them."""
_SIOCGIFADDR = 0x8915

Value = TypeVar("Value")


class RankGroup:
    """One rank's view of all of them. Made without arguments, it is a group of one."""

    def __init__(self, rank: int = 0, num_ranks: int = 1, mesh: DeviceMesh | None = None) -> None:
        assert (mesh is None) == (num_ranks == 1), "several ranks, and only they, have a mesh"
        self.rank = rank
        self.num_ranks = num_ranks
        self._mesh = mesh

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other rank."""
        return self.num_ranks == 1

    @property
    def mesh(self) -> DeviceMesh:
        """All ranks in one dimension, over which weights are sharded. A single rank has none."""
        assert self._mesh is not None, "a single rank has no mesh"
        return self._mesh

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, rank after rank. Values are pickled, so tensors in them belong on the CPU."""
        if self.is_alone:
            return [value]
        values: list[Value | None] = [None] * self.num_ranks
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def from_first(self, compute: Callable[[], Value]) -> Value:
        """What `compute` gives on rank 0, where alone it runs; if it raises an Exception there, all ranks raise it.

        Pickled as in `gather`.
        """
        if self.is_alone:
            return compute()
        box: list[tuple[Value | None, Exception | None]] = [(None, None)]
        if self.is_first:
            box = [_outcome(compute)]
        dist.broadcast_object_list(box, src=0)
        value, error = box[0]
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def gather_values(self, values_N: Tensor) -> Tensor:
        """The ranks' values end to end, rank after rank, on this rank's device; N may differ between ranks."""
        if self.is_alone:
            return values_N
        return torch.cat(self.gather(values_N.detach().cpu())).to(values_N.device)

    def sum(self, values: Tensor) -> Tensor:
        """Add up the ranks' tensors of equal shape, in place; returns the tensor."""
        if not self.is_alone:
            dist.all_reduce(values)
        return values

    def merge(self, outputs: Sequence[ObjectiveOutput]) -> ObjectiveOutput:
        """The sums over the micro-batches of all ranks, detached where there are several; equal on all ranks.

        A rank may have names that others lack: one whose share was empty has none.
        """
        own = merged(outputs)
        return own if self.is_alone else merged(self.gather(_on_cpu(own)))

    def close(self) -> None:
        """Leave the group. Nothing collective may follow."""
        if not self.is_alone:
            dist.destroy_process_group()


def open_store(host: str, num_ranks: int) -> TCPStore:
    """The place where ranks find each other, on a free port of rank 0; listens on `host` alone, not on all networks."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        return TCPStore(
            host,
            port,
            num_ranks,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=JOIN_S),
            master_listen_fd=listener.detach(),
        )


def connect_store(address: str, num_ranks: int) -> TCPStore:
    """Rank 0's store, for the other ranks; `address` is host:port."""
    host, _, port = address.rpartition(":")
    return TCPStore(host, int(port), num_ranks, is_master=False, timeout=timedelta(seconds=JOIN_S))


def join(store: TCPStore, *, rank: int, num_ranks: int, host: str, device: torch.device) -> RankGroup:
    """Form the group, gloo for tensors on the CPU and nccl for those on GPUs. Returns when all ranks are there.

    `host` is this rank's own address, through whose network the ranks talk.
    """
    if interface := _interface_of(host):
        # Otherwise gloo takes the one that the machine's name stands for, often the loopback of a lone machine.
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, interface)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl",
        store=store,
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=COLLECTIVE_S),
    )
    return RankGroup(rank, num_ranks, init_device_mesh(device.type, (num_ranks,)))


def _interface_of(host: str) -> str | None:
    """The network interface with an IPv4 address, as in "eth0"; None if none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == host:
                return name
    return None


def _outcome(compute: Callable[[], Value]) -> tuple[Value | None, Exception | None]:
    try:
        return compute(), None
    except Exception as error:  # whatever it is, the other ranks wait for it
        return None, error


def _on_cpu(output: ObjectiveOutput) -> ObjectiveOutput:
    return ObjectiveOutput(
        loss_sum=output.loss_sum.detach().cpu(),
        metric_sums={name: value.cpu() for name, value in output.metric_sums.items()},
        part_sums={name: (value.cpu(), size.cpu()) for name, (value, size) in output.part_sums.items()},
        share_histograms={name: counts.cpu() for name, counts in output.share_histograms.items()},
    )
