"""What may be handed out: the last sight of the cluster, kept in one row for people and for the next scheduler."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.scheduler.admission import Capacity, Resources
from service.scheduler.ray_jobs import ClusterView
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


async def read_capacity(session: AsyncSession, now: datetime) -> Capacity:
    """The capacity for an admission now; unknown when Ray does not answer or was last seen too long ago."""
    seen = await session.scalar(select(ClusterState).execution_options(populate_existing=True))
    if seen is None:
        return Capacity(total=None, unknown_because="Ray has not been seen yet")
    if not seen.reachable or now - seen.observed_at > TRUSTED_FOR:
        return Capacity(
            total=None,
            unknown_because=f"Ray does not answer since {seen.observed_at:%H:%M:%S} UTC; nothing starts until it does",
        )
    return Capacity(total=Resources.supply(seen.num_cpus, seen.num_gpus))


async def database_now(session: AsyncSession) -> datetime:
    """The database's clock, the only one that deadlines are measured by: clocks of processes may disagree."""
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def _write(session: AsyncSession, **values: object) -> None:
    row = insert(ClusterState).values(id=1, **values)
    await session.execute(row.on_conflict_do_update(index_elements=[ClusterState.id], set_=values))


def _bounded(there: float, bound: float | None) -> float:
    return there if bound is None else min(there, bound)
