"""What the cluster has and what our ledger has given out of it: by node, by kind of GPU, and by role."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.queue.overview import RoleHolding, held_by_role
from service.queue.reading import cluster_state
from service.storage.scheduling_tables import AttemptHolding
from service.storage.tables import Attempt, ClusterState


@dataclass(slots=True, kw_only=True)
class NodeUse:
    """A living node beside what our ledger has given out on it."""

    id: str
    gpu_type: str
    num_cpus: float
    """Capacity that may be handed out."""
    num_gpus: float
    facts: dict[str, Any]
    """What else the scheduler has seen of it, as it stands in the row."""
    cpus_taken: float = 0.0
    gpus_taken: float = 0.0
    attempt_ids: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeUse:
    """All GPUs of one kind."""

    gpu_type: str
    """Ray's name; empty where Ray says none."""
    num_gpus: float
    gpus_taken: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The whole cluster."""

    state: ClusterState | None
    """None before the scheduler ever looked."""
    nodes: list[NodeUse]
    gone: list[NodeUse]
    """Nodes on which the ledger has given something out and that Ray does not have any more, without capacity."""
    by_gpu_type: list[TypeUse]
    by_role: list[RoleHolding]


async def read_capacity(session: AsyncSession) -> Capacity:
    """As the scheduler last saw it, beside everything that is not yet released."""
    state = await cluster_state(session)
    rows = await session.execute(
        select(Attempt.id, AttemptHolding.bundles)
        .join(AttemptHolding, AttemptHolding.attempt_id == Attempt.id)
        .where(Attempt.released_at.is_(None))
    )
    holdings = [(row.id, bundle) for row in rows for bundle in row.bundles if bundle.get("state") != "gone"]
    nodes = {node["id"]: _node(node) for node in (state.nodes if state else [])}
    living = set(nodes)
    for attempt_id, bundle in holdings:
        node = nodes.setdefault(bundle["node"], _node({"id": bundle["node"]}))
        node.cpus_taken += bundle["num_cpus"]
        node.gpus_taken += bundle["num_gpus"]
        node.attempt_ids.add(attempt_id)
    return Capacity(
        state=state,
        nodes=[node for name, node in nodes.items() if name in living],
        gone=[node for name, node in nodes.items() if name not in living],
        by_gpu_type=_by_type(nodes.values()),
        by_role=sorted(held_by_role([bundle for _, bundle in holdings]), key=lambda one: one.role),
    )


async def nodes_of(session: AsyncSession, experiment_ids: Sequence[str]) -> dict[str, list[str]]:
    """By experiment: the ids of the nodes on which its attempt holds something."""
    held = (
        select(Attempt.experiment_id, AttemptHolding.bundles)
        .join(AttemptHolding, AttemptHolding.attempt_id == Attempt.id)
        .where(Attempt.released_at.is_(None), Attempt.experiment_id.in_(experiment_ids))
    )
    rows = await session.execute(held)
    return {row.experiment_id: sorted({one["node"] for one in row.bundles if one["node"]}) for row in rows}


def _node(told: dict[str, Any]) -> NodeUse:
    known = ("id", "num_cpus", "num_gpus", "gpu_type")
    return NodeUse(
        id=told["id"],
        gpu_type=told.get("gpu_type", ""),
        num_cpus=told.get("num_cpus", 0.0),
        num_gpus=told.get("num_gpus", 0.0),
        facts={key: value for key, value in told.items() if key not in known},
    )


def _by_type(nodes: Iterable[NodeUse]) -> list[TypeUse]:
    with_gpus = [node for node in nodes if node.num_gpus]
    return [_sum(name, [node for node in with_gpus if node.gpu_type == name]) for name in sorted(_types(with_gpus))]


def _types(nodes: Iterable[NodeUse]) -> set[str]:
    return {node.gpu_type for node in nodes}


def _sum(gpu_type: str, nodes: Sequence[NodeUse]) -> TypeUse:
    return TypeUse(
        gpu_type=gpu_type,
        num_gpus=sum(node.num_gpus for node in nodes),
        gpus_taken=sum(node.gpus_taken for node in nodes),
    )
