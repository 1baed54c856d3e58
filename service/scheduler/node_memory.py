"""What Ray tells of the nodes' memory. Pure.

A node's resource `memory` is what Ray found for tasks and actors when it started, without its object store; a GPU's
memory is not told at all, but its kind is, as a resource `accelerator_type:H100`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GIB = 2.0**30
GPU_MEMORY_BYTES: Mapping[str, float] = {
    "T4": 15 * GIB,
    "V100": 16 * GIB,
    "P100": 16 * GIB,
    "L4": 22 * GIB,
    "A10G": 22 * GIB,
    "A30": 24 * GIB,
    "A100-40G": 40 * GIB,
    "L40S": 44 * GIB,
    "A100-80G": 80 * GIB,
    "H100": 79 * GIB,
    "GH200": 95 * GIB,
    "H200": 140 * GIB,
    "B200": 178 * GIB,
}
"""By Ray's name of the kind. Kinds that come with different memories under one name, such as A100, are left out."""
_KIND = "accelerator_type:"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMemory:
    """Bytes; None where Ray does not tell."""

    node_bytes: float | None = None
    """Of the largest node."""
    total_bytes: float | None = None
    """Of all nodes."""
    gpu_bytes: float | None = None
    """Of the largest GPU; None if any kind is unknown."""


UNKNOWN_MEMORY = NodeMemory()


def read_node_memory(nodes: Sequence[Mapping[str, float]]) -> NodeMemory:
    """From each node's total resources by name. One silent node leaves the whole unknown."""
    sizes = [node.get("memory") for node in nodes]
    known = [size for size in sizes if size is not None]
    told = bool(nodes) and len(known) == len(sizes)
    return NodeMemory(
        node_bytes=max(known) if told else None,
        total_bytes=sum(known) if told else None,
        gpu_bytes=_gpu_bytes(nodes),
    )


def read_gpu_type(node: Mapping[str, float]) -> str:
    """Ray's name of a node's kind of GPU, from its total resources by name; empty where it says none."""
    kinds = sorted(name.removeprefix(_KIND) for name in node if name.startswith(_KIND))
    return kinds[0] if kinds and node.get("GPU") else ""


def _gpu_bytes(nodes: Sequence[Mapping[str, float]]) -> float | None:
    with_gpus = [node for node in nodes if node.get("GPU")]
    kinds = [[name.removeprefix(_KIND) for name in node if name.startswith(_KIND)] for node in with_gpus]
    sizes = [GPU_MEMORY_BYTES.get(kind) for kinds_of_node in kinds for kind in kinds_of_node]
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(sizes) or not all(kinds):
        return None
    return max(known)
