"""What people see of the queue as a whole: of those who run what they do and hold, of those who wait why and how long.

Everything is read for many experiments at once; a page of the queue costs a handful of statements, however long it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.access import Visible
from service.contract.status import AttemptStatus, ExperimentStatus
from service.queue.explain import StartEstimate, estimate, forecast_errors, unblocked_when
from service.queue.snapshot import read_snapshot
from service.storage.scheduling_tables import AttemptHolding, QueueEntry
from service.storage.tables import Attempt, Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleHolding:
    """What the actors of one role ask for or hold, in sum."""

    role: str
    num_actors: int
    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFacts:
    """What an experiment that was admitted does and holds."""

    attempt_number: int
    since: datetime
    """When its attempt was made."""
    heartbeat_at: datetime | None
    progress: dict[str, Any] | None
    roles: list[RoleHolding]
    max_runtime_s: float
    preempt_requested_at: datetime | None
    preempt_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingFacts:
    """Why an experiment waits, and for how long."""

    wait_code: str | None
    waits_for: str | None
    unblocked_when: str | None
    held_by: str | None
    held_reason: str
    roles: list[RoleHolding]
    max_runtime_s: float
    start: StartEstimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The facts of those who wait, as the scheduler saw them in its last pass."""

    decided_at: datetime | None
    facts: dict[str, WaitingFacts]


async def running_facts(session: AsyncSession, experiment_ids: Sequence[str]) -> dict[str, RunningFacts]:
    """By experiment; without those that hold no attempt."""
    columns = (
        Attempt.experiment_id,
        Attempt.number,
        Attempt.created_at,
        Attempt.heartbeat_at,
        Attempt.progress,
        AttemptHolding.bundles,
        QueueEntry.max_runtime_s,
        AttemptHolding.preempt_requested_at,
        AttemptHolding.preempt_reason,
    )
    statement = (
        select(*columns)
        .join(QueueEntry, QueueEntry.experiment_id == Attempt.experiment_id)
        .outerjoin(AttemptHolding, AttemptHolding.attempt_id == Attempt.id)
        .where(Attempt.experiment_id.in_(experiment_ids), Attempt.status != AttemptStatus.ENDED.value)
    )
    return {
        row.experiment_id: RunningFacts(
            attempt_number=row.number,
            since=row.created_at,
            heartbeat_at=row.heartbeat_at,
            progress=row.progress,
            roles=held_by_role(row.bundles or []),
            max_runtime_s=row.max_runtime_s,
            preempt_requested_at=row.preempt_requested_at,
            preempt_reason=row.preempt_reason or "",
        )
        for row in await session.execute(statement)
    }


async def waiting_facts(session: AsyncSession, experiment_ids: Sequence[str]) -> Waiting:
    """By experiment."""
    seen = await read_snapshot(session)
    places = {name: place for place, name in enumerate(seen.experiment_ids)} if seen else {}
    errors = await forecast_errors(session)
    columns = (
        QueueEntry.experiment_id,
        QueueEntry.wait_code,
        QueueEntry.waits_for,
        QueueEntry.held_by,
        QueueEntry.held_reason,
        QueueEntry.roles,
        QueueEntry.max_runtime_s,
    )
    rows = await session.execute(select(*columns).where(QueueEntry.experiment_id.in_(experiment_ids)))
    facts = {
        row.experiment_id: WaitingFacts(
            wait_code=row.wait_code,
            waits_for=row.waits_for,
            unblocked_when=unblocked_when(row.experiment_id, row.wait_code, row.waits_for),
            held_by=row.held_by,
            held_reason=row.held_reason,
            roles=asked_by_role(row.roles),
            max_runtime_s=row.max_runtime_s,
            start=estimate(seen, places[row.experiment_id], errors) if seen and row.experiment_id in places else None,
        )
        for row in rows
    }
    return Waiting(decided_at=seen.decided_at if seen else None, facts=facts)


async def num_waiting(session: AsyncSession, visible: Visible) -> int:
    """Of the visible projects."""
    queued = (Experiment.status == ExperimentStatus.QUEUED.value, visible.where(Experiment.project_id))
    return await session.scalar(select(func.count()).select_from(Experiment).where(*queued)) or 0


def held_by_role(bundles: Sequence[dict[str, Any]]) -> list[RoleHolding]:
    """Sums over an attempt's bundles; those that it has let go of are left out."""
    sums: dict[str, list[float]] = {}
    for bundle in bundles:
        if bundle.get("state") == "gone":
            continue
        one = sums.setdefault(bundle["role"], [0, 0.0, 0.0])
        one[0] += 1
        one[1] += bundle["num_cpus"]
        one[2] += bundle["num_gpus"]
    return [
        RoleHolding(role=role, num_actors=int(count), num_cpus=cpus, num_gpus=gpus)
        for role, (count, cpus, gpus) in sums.items()
    ]


def asked_by_role(roles: Sequence[dict[str, Any]]) -> list[RoleHolding]:
    """What an experiment in the queue asks for at least."""
    return [
        RoleHolding(
            role=one["role"],
            num_actors=one["count"],
            num_cpus=one["count"] * one["num_cpus"],
            num_gpus=one["count"] * one["num_gpus"],
        )
        for one in roles
    ]
