"""What may be handed out: the last sight of the cluster, kept in one row for people and for the next scheduler."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.scheduler.decision.facts import Cluster, Node
from service.scheduler.decision.resources import Resources
from service.scheduler.ray_jobs import ClusterView, NodeView
from service.storage.tables import ClusterState

TRUSTED_FOR = timedelta(seconds=30)
"""An older sight says nothing about now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the operator lets the service hand out; None: all that Ray has."""

    num_cpus: float | None
    num_gpus: float | None


async def record_sight(session: AsyncSession, view: ClusterView, bounds: Bounds, now: datetime) -> None:
    """Ray answered. A cluster without any node (its first is about to register) has no capacity to speak of yet."""
    if view.num_nodes == 0:
        await record_silence(session, "Ray has no node yet", now)
        return
    await _write(
        session,
        observed_at=now,
        reachable=True,
        ray_session=view.session_name,
        num_cpus=_bounded(view.num_cpus, bounds.num_cpus),
        num_gpus=_bounded(view.num_gpus, bounds.num_gpus),
        node_num_cpus=view.node_num_cpus,
        node_num_gpus=view.node_num_gpus,
        node_memory_bytes=view.memory.node_bytes,
        memory_bytes=view.memory.total_bytes,
        gpu_memory_bytes=view.memory.gpu_bytes,
        message=f"{view.num_nodes} node{'' if view.num_nodes == 1 else 's'}",
        nodes=_bounded_nodes(view, bounds),
    )


async def record_silence(session: AsyncSession, message: str, now: datetime) -> None:
    """Ray did not answer. The last sight stays as it was, with its time."""
    seen = await session.get(ClusterState, 1)
    await _write(
        session,
        observed_at=seen.observed_at if seen else now,
        reachable=False,
        ray_session=seen.ray_session if seen else None,
        num_cpus=seen.num_cpus if seen else 0.0,
        num_gpus=seen.num_gpus if seen else 0.0,
        message=message,
    )


async def read_cluster(session: AsyncSession, now: datetime) -> Cluster:
    """The nodes for an admission now; unknown when Ray does not answer or was last seen too long ago."""
    seen = await session.scalar(select(ClusterState).execution_options(populate_existing=True))
    if seen is None:
        return Cluster(unknown_because="Ray has not been seen yet")
    if not seen.reachable or now - seen.observed_at > TRUSTED_FOR:
        since = f"{seen.observed_at:%H:%M:%S} UTC"
        return Cluster(unknown_because=f"Ray does not answer since {since}; nothing starts until it does")
    # Of a cluster of which only the sum is known, nothing can be pinned to a node.
    nodes = seen.nodes or [{"id": "", "num_cpus": seen.num_cpus, "num_gpus": seen.num_gpus, "gpu_type": ""}]
    return Cluster(
        nodes=tuple(
            Node(
                id=node["id"],
                total=Resources.supply(node["num_cpus"], node["num_gpus"]),
                gpu_type=node["gpu_type"],
            )
            for node in nodes
        )
    )


async def _write(session: AsyncSession, **values: object) -> None:
    row = insert(ClusterState).values(id=1, **values)
    await session.execute(row.on_conflict_do_update(index_elements=[ClusterState.id], set_=values))


def _bounded_nodes(view: ClusterView, bounds: Bounds) -> list[dict[str, Any]]:
    """The nodes, of which the last ones are cut down until the sum is within the operator's bounds."""
    left_cpus, left_gpus = bounds.num_cpus, bounds.num_gpus
    nodes = []
    for node in sorted(view.nodes, key=lambda node: node.id):
        cpus, gpus = _bounded(node.num_cpus, left_cpus), _bounded(node.num_gpus, left_gpus)
        left_cpus = None if left_cpus is None else left_cpus - cpus
        left_gpus = None if left_gpus is None else left_gpus - gpus
        given = {"id": node.id, "num_cpus": cpus, "num_gpus": gpus, "gpu_type": node.gpu_type}
        nodes.append(given | _seen_of(node, view))
    return nodes


def _seen_of(node: NodeView, view: ClusterView) -> dict[str, Any]:
    """What people are shown of it and nothing is decided by."""
    seen = {"name": node.name, "is_head": node.is_head, "memory_bytes": node.memory_bytes}
    if view.held is None:
        return seen
    cpus, gpus = view.held.get(node.id, (0.0, 0.0))
    return seen | {"ray_cpus_held": cpus, "ray_gpus_held": gpus}


def _bounded(there: float, bound: float | None) -> float:
    return there if bound is None else min(there, bound)
