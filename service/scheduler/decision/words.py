"""Amounts in words. They name what is needed and what the cluster has, not what is free at the moment: words that
change with every pass would have to be written anew for everybody who waits."""

from collections.abc import Sequence

from service.scheduler.decision.facts import Node
from service.scheduler.decision.resources import UNITS, Demand, RoleDemand, total


def needs(demand: Demand) -> str:
    """`8 GPUs (H100) and 16 CPUs`."""
    whole = demand.total
    kinds = sorted({kind for role in demand.roles if role.bundle.gpus for kind in role.gpu_types})
    of_kind = f" ({' or '.join(kinds)})" if kinds else ""
    parts = [f"{_counted(whole.num_gpus, 'GPU')}{of_kind}"] if whole.gpus else []
    parts += [_counted(whole.num_cpus, "CPU")] if whole.cpus else []
    return " and ".join(parts) or "nothing"


def shortage(demand: Demand, nodes: Sequence[Node]) -> str:
    """Why even the idle cluster cannot hold it."""
    for role in demand.roles:
        fitting = [node for node in nodes if _holds(role, node)]
        if not fitting:
            return (
                f"one {role.role} actor needs {_of_bundle(role)} on one node, and no node has that: {_largest(nodes)}"
            )
    have = total(node.total for node in nodes)
    return (
        f"needs {needs(demand)} at once; the whole cluster has {_counted(have.num_gpus, 'GPU')} and "
        f"{_counted(have.num_cpus, 'CPU')} on {_counted(len(nodes), 'node')}"
    )


def _holds(role: RoleDemand, node: Node) -> bool:
    if role.gpu_types and node.kind not in role.gpu_types:
        return False
    return node.total.gpus >= role.bundle.gpus and node.total.cpus >= role.bundle.cpus


def _of_bundle(role: RoleDemand) -> str:
    kinds = f" ({' or '.join(role.gpu_types)})" if role.gpu_types else ""
    parts = [f"{_counted(role.bundle.num_gpus, 'GPU')}{kinds}"] if role.bundle.gpus or kinds else []
    return " and ".join([*parts, _counted(role.bundle.num_cpus, "CPU")])


def _largest(nodes: Sequence[Node]) -> str:
    sizes = sorted({(node.total.gpus, node.total.cpus, node.kind) for node in nodes}, reverse=True)[:4]
    if not sizes:
        return "there is no node"
    shown = [
        f"{gpus / UNITS:g} GPUs{f' ({kind})' if kind else ''} and {cpus / UNITS:g} CPUs" for gpus, cpus, kind in sizes
    ]
    return "the largest have " + "; ".join(shown)


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
