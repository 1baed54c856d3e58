"""The queue: experiments in status `queued`, in order, and what the admitted ones hold."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import ExperimentStatus
from service.storage.queue_order import QUEUE_ORDER, queue_position
from service.storage.tables import Attempt, ClusterState, Experiment
from service.storage.transitions import notify


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Resources that are not free: those of every attempt that Ray was not yet seen to have let go."""

    num_cpus: float
    num_gpus: float


async def queued_in_order(session: AsyncSession, now: datetime) -> list[Experiment]:
    """Who may be admitted now, first in line first.

    Left out are those in a back-off, and those whose last attempt still holds resources: a second attempt beside it is
    impossible, and neither may keep the others waiting.
    """
    holding = select(Attempt.id).where(Attempt.experiment_id == Experiment.id, Attempt.released_at.is_(None)).exists()
    rows = await session.scalars(
        select(Experiment)
        .where(
            Experiment.status == ExperimentStatus.QUEUED.value,
            or_(Experiment.not_before.is_(None), Experiment.not_before <= now),
            ~holding,
        )
        .order_by(*QUEUE_ORDER)
        .execution_options(populate_existing=True)
    )
    return list(rows)


async def position(session: AsyncSession, experiment: Experiment) -> int | None:
    """1 for the next in line; None unless the experiment is queued."""
    return await session.scalar(select(queue_position()).select_from(Experiment).where(Experiment.id == experiment.id))


async def taken(session: AsyncSession) -> Taken:
    """Sums over all attempts that are not released, whether they still work or have ended."""
    sums = select(func.coalesce(func.sum(Attempt.num_cpus), 0.0), func.coalesce(func.sum(Attempt.num_gpus), 0.0))
    num_cpus, num_gpus = (await session.execute(sums.where(Attempt.released_at.is_(None)))).one()
    return Taken(num_cpus=num_cpus, num_gpus=num_gpus)


async def set_waiting_reason(session: AsyncSession, experiment: Experiment, reason: str | None) -> bool:
    """Says in words why a queued experiment waits. Writes and tells readers only if that changed; returns whether."""
    if experiment.waiting_reason == reason:
        return False
    changed = await session.scalar(
        update(Experiment)
        .where(Experiment.id == experiment.id, Experiment.status == ExperimentStatus.QUEUED.value)
        .values(waiting_reason=reason)
        .returning(Experiment.id)
        .execution_options(synchronize_session="fetch")
    )
    if changed is not None:
        await notify(session, experiment.id)
    return changed is not None


async def cluster_state(session: AsyncSession) -> ClusterState | None:
    """What the scheduler last saw of Ray; None before it ever looked."""
    return await session.get(ClusterState, 1, populate_existing=True)
