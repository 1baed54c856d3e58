"""What the database says about the service as a whole, for Prometheus: read by the scheduler that leads.

Counts, never lists: each is one cheap statement.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service import queue
from service.contract.spec import PRIORITY_RANK
from service.contract.status import ExperimentStatus
from service.storage.processes import IS_ALIVE
from service.storage.tables import Attempt, Experiment, LogLineRow, SchedulerLease, ServiceProcess

_PRIORITY = {rank: name for name, rank in PRIORITY_RANK.items()}
_LATELY = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How long experiments of one priority wait, in seconds."""

    priority: str
    oldest_s: float
    """Of those that wait now; 0 without any."""
    median_s: float
    """Of those that were first admitted within the last hour; 0 without any."""
    p90_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Ray as last seen, and what the ledger has given out."""

    is_reachable: bool
    observed_at: datetime
    num_cpus: float
    num_gpus: float
    num_cpus_taken: float
    num_gpus_taken: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFigures:
    """Who may schedule."""

    token: int
    remaining_s: float
    """Negative: nobody leads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All of it at one moment."""

    experiments: dict[tuple[str, str], int]
    """By status and priority; of the terminal statuses all that ever were."""
    waiting: list[Waiting]
    attempts_unreleased: int
    ends: dict[str, int]
    """Ended attempts by reason, since the beginning."""
    cluster: Cluster | None
    processes: dict[str, int]
    """Living processes by role."""
    lease: LeaseFigures
    log_lines: int
    """Rows that are not in the storage yet; an estimate of PostgreSQL's."""
    database_bytes: int


async def read_figures(session: AsyncSession) -> Figures:
    """The figures now."""
    return Figures(
        experiments=await _experiments(session),
        waiting=await _waiting(session),
        attempts_unreleased=await _unreleased(session),
        ends=await _ends(session),
        cluster=await _cluster(session),
        processes=await _processes(session),
        lease=await _lease(session),
        log_lines=await _estimate(session),
        database_bytes=await session.scalar(select(func.pg_database_size(func.current_database()))) or 0,
    )


async def _experiments(session: AsyncSession) -> dict[tuple[str, str], int]:
    counts = select(Experiment.status, Experiment.priority_rank, func.count()).group_by(
        Experiment.status, Experiment.priority_rank
    )
    found: dict[tuple[str, str], int] = {
        (status.value, name): 0 for status in ExperimentStatus for name in PRIORITY_RANK
    }
    for status, rank, count in await session.execute(counts):
        found[status, _PRIORITY[rank]] = count
    return found


async def _waiting(session: AsyncSession) -> list[Waiting]:
    now = func.clock_timestamp()
    oldest = (
        select(Experiment.priority_rank, func.extract("epoch", now - func.min(Experiment.queued_at)))
        .where(Experiment.status == ExperimentStatus.QUEUED.value)
        .group_by(Experiment.priority_rank)
    )
    waited = func.extract("epoch", Attempt.created_at - Experiment.submitted_at)
    lately = (
        select(
            Experiment.priority_rank,
            func.percentile_cont(0.5).within_group(waited),
            func.percentile_cont(0.9).within_group(waited),
        )
        .join(Attempt, Attempt.experiment_id == Experiment.id)
        .where(Attempt.number == 1, Attempt.created_at > now - _LATELY)
        .group_by(Experiment.priority_rank)
    )
    ages = {rank: float(age) for rank, age in await session.execute(oldest)}
    spans = {rank: (float(median), float(p90)) for rank, median, p90 in await session.execute(lately)}
    return [
        Waiting(
            priority=name,
            oldest_s=ages.get(rank, 0.0),
            median_s=spans.get(rank, (0.0, 0.0))[0],
            p90_s=spans.get(rank, (0.0, 0.0))[1],
        )
        for rank, name in _PRIORITY.items()
    ]


async def _unreleased(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).where(Attempt.released_at.is_(None))) or 0


async def _ends(session: AsyncSession) -> dict[str, int]:
    counts = (
        select(Attempt.end_reason, func.count()).where(Attempt.end_reason.is_not(None)).group_by(Attempt.end_reason)
    )
    return {reason: count for reason, count in await session.execute(counts) if reason is not None}


async def _cluster(session: AsyncSession) -> Cluster | None:
    seen = await queue.cluster_state(session)
    if seen is None:
        return None
    taken = await queue.taken(session)
    return Cluster(
        is_reachable=seen.reachable,
        observed_at=seen.observed_at,
        num_cpus=seen.num_cpus,
        num_gpus=seen.num_gpus,
        num_cpus_taken=taken.num_cpus,
        num_gpus_taken=taken.num_gpus,
    )


async def _processes(session: AsyncSession) -> dict[str, int]:
    counts = select(ServiceProcess.role, func.count()).where(IS_ALIVE).group_by(ServiceProcess.role)
    return {"api": 0, "scheduler": 0, **{role: count for role, count in await session.execute(counts)}}


async def _lease(session: AsyncSession) -> LeaseFigures:
    remaining = func.extract("epoch", SchedulerLease.expires_at - func.clock_timestamp())
    row = (await session.execute(select(SchedulerLease.token, remaining))).first()
    return LeaseFigures(token=row[0], remaining_s=float(row[1])) if row else LeaseFigures(token=0, remaining_s=-1.0)


async def _estimate(session: AsyncSession) -> int:
    """Counting would read the table."""
    statistics = select(func.pg_stat_get_live_tuples(func.to_regclass(LogLineRow.__tablename__)))
    return int(await session.scalar(statistics) or 0)
