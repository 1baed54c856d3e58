"""The queue as the scheduler and people read it: who waits, who holds what, and how the cluster looked last."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import AttemptStatus, ExperimentStatus
from service.storage.queue_order import queue_position
from service.storage.scheduling_tables import AttemptHolding, QueueEntry, StageKey
from service.storage.tables import Attempt, ClusterState, Experiment, StageResultRow

WaitingRow = Row[*tuple[Any, ...]]
"""The columns of `waiting_rows`, by their names."""
HoldingRow = Row[*tuple[Any, ...]]
"""The columns of `holding_rows`, by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Resources that are not free: those of every attempt that Ray was not yet seen to have let go."""

    num_cpus: float
    num_gpus: float


async def waiting_rows(session: AsyncSession) -> Sequence[WaitingRow]:
    """Everybody in status `queued`, with what the decision needs and nothing of the long specification."""
    columns = (
        Experiment.id,
        Experiment.project_id,
        Experiment.user_id,
        Experiment.priority_rank,
        Experiment.queued_at,
        Experiment.not_before,
        Experiment.waiting_reason,
        # As text: of thousands of rows a few differ, and only those are worth decoding.
        cast(QueueEntry.roles, Text).label("roles_text"),
        QueueEntry.max_runtime_s,
        QueueEntry.start_not_before,
        QueueEntry.after_ids,
        QueueEntry.on_failed_dependency,
        cast(QueueEntry.limits, Text).label("limits_text"),
        QueueEntry.held_by,
        QueueEntry.held_reason,
        QueueEntry.reuse,
        QueueEntry.content_state,
        QueueEntry.wait_code,
    )
    statement = select(*columns).join(QueueEntry, QueueEntry.experiment_id == Experiment.id)
    return (await session.execute(statement.where(Experiment.status == ExperimentStatus.QUEUED.value))).all()


async def holding_rows(session: AsyncSession) -> Sequence[HoldingRow]:
    """Every attempt whose resources were not yet seen free, whether it still works or not."""
    columns = (
        Attempt.id,
        Attempt.experiment_id,
        Attempt.number,
        (Attempt.status == AttemptStatus.ENDED.value).label("is_over"),
        (Attempt.status == AttemptStatus.RUNNING.value).label("is_running"),
        Attempt.num_cpus,
        Attempt.num_gpus,
        Attempt.created_at,
        func.coalesce(Attempt.submitted_at, Attempt.created_at).label("since"),
        (Experiment.status == ExperimentStatus.CANCELLING.value).label("is_cancelling"),
        Experiment.project_id,
        Experiment.user_id,
        Experiment.priority_rank,
        QueueEntry.roles,
        QueueEntry.max_runtime_s,
        QueueEntry.preemptible,
        QueueEntry.limits,
        AttemptHolding.bundles,
        AttemptHolding.rate,
        AttemptHolding.penalty,
        AttemptHolding.charged,
        AttemptHolding.charged_until,
        AttemptHolding.preempt_requested_at,
        Attempt.progress["stage"].astext.label("stage"),
    )
    statement = (
        select(*columns)
        .join(Experiment, Experiment.id == Attempt.experiment_id)
        .join(QueueEntry, QueueEntry.experiment_id == Experiment.id)
        # An attempt of before the ledger knew nodes has no holding.
        .outerjoin(AttemptHolding, AttemptHolding.attempt_id == Attempt.id)
        .where(Attempt.released_at.is_(None))
    )
    return (await session.execute(statement)).all()


async def statuses_of(session: AsyncSession, experiment_ids: Sequence[str]) -> dict[str, str]:
    """Status by id; unknown ids are left out."""
    if not experiment_ids:
        return {}
    found = select(Experiment.id, Experiment.status).where(Experiment.id.in_(experiment_ids))
    return {row.id: row.status for row in await session.execute(found)}


async def sft_keys(session: AsyncSession) -> dict[str, str]:
    """By experiment that waits or holds resources: the key of its SFT stage, where others may have the same.

    Left out are those whose stage some experiment of the project has finished: they have nothing to wait for.
    """
    live = Experiment.status.in_([status.value for status in ExperimentStatus if not status.is_terminal])
    statement = (
        select(StageKey.experiment_id, StageKey.project_id, StageKey.settings_key, StageKey.content_key)
        .join(Experiment, Experiment.id == StageKey.experiment_id)
        .where(StageKey.stage == "sft", StageKey.content_key > "", live)
    )
    rows = (await session.execute(statement)).all()
    done = await _finished(session, {row.settings_key for row in rows})
    keys = {row.experiment_id: (row.project_id, row.settings_key, row.content_key) for row in rows}
    return {name: "/".join(key) for name, key in keys.items() if key not in done}


async def position(session: AsyncSession, experiment: Experiment) -> int | None:
    """1 for the next in line; None unless the experiment is queued."""
    return await session.scalar(select(queue_position()).select_from(Experiment).where(Experiment.id == experiment.id))


async def taken(session: AsyncSession) -> Taken:
    """Sums over all attempts that are not released, whether they still work or have ended."""
    sums = select(func.coalesce(func.sum(Attempt.num_cpus), 0.0), func.coalesce(func.sum(Attempt.num_gpus), 0.0))
    num_cpus, num_gpus = (await session.execute(sums.where(Attempt.released_at.is_(None)))).one()
    return Taken(num_cpus=num_cpus, num_gpus=num_gpus)


async def cluster_state(session: AsyncSession) -> ClusterState | None:
    """What the scheduler last saw of Ray; None before it ever looked."""
    return await session.get(ClusterState, 1, populate_existing=True)


async def _finished(session: AsyncSession, settings_keys: set[str]) -> set[tuple[str, str, str | None]]:
    """Project, settings and content of SFT stages that have a result."""
    if not settings_keys:
        return set()
    has_result = (StageResultRow.experiment_id == StageKey.experiment_id) & (StageResultRow.stage == StageKey.stage)
    found = (
        select(StageKey.project_id, StageKey.settings_key, StageKey.content_key)
        .join(StageResultRow, has_result)
        .where(StageKey.stage == "sft", StageKey.settings_key.in_(settings_keys))
    )
    return {(row.project_id, row.settings_key, row.content_key) for row in await session.execute(found)}
