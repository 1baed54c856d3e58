"""Holds on many experiments at once, for whoever owns them as a group. What a person holds by hand stays theirs."""

from collections.abc import Iterable, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import ExperimentStatus
from service.storage.scheduling_tables import QueueEntry
from service.storage.tables import Experiment
from service.storage.transitions import lock_experiment, record_event


async def hold_waiting(session: AsyncSession, experiment_ids: Iterable[str], *, by: str, reason: str) -> list[str]:
    """Keeps those that wait, and that nobody holds, from starting; returns them. They keep their age.

    `by` is the holder: a person's name, or what in the service does it. The ids come in the order of locks.
    """
    held = []
    for experiment_id in experiment_ids:
        experiment = await lock_experiment(session, experiment_id)
        if experiment is None or experiment.status != ExperimentStatus.QUEUED.value:
            continue
        unheld = (QueueEntry.experiment_id == experiment_id, QueueEntry.held_by.is_(None))
        values = {"held_by": by, "held_reason": reason, "held_at": func.clock_timestamp()}
        taken = update(QueueEntry).where(*unheld).values(values).returning(QueueEntry.experiment_id)
        if await session.scalar(taken) is not None:
            detail = {"after": {"held_by": by, "reason": reason}, "by": by}
            await record_event(session, experiment_id, "held", f"held by {by}: {reason}", detail=detail, is_held=True)
            held.append(experiment_id)
    return held


async def release_held(
    session: AsyncSession, experiment_ids: Sequence[str], *, by: str, reason_begins: str
) -> list[str]:
    """Releases those whose hold has a reason that begins so; returns them."""
    mine = (
        QueueEntry.experiment_id.in_(experiment_ids),
        QueueEntry.held_by.is_not(None),
        QueueEntry.held_reason.startswith(reason_begins, autoescape=True),
    )
    entries = select(Experiment.id).join(QueueEntry, QueueEntry.experiment_id == Experiment.id).where(*mine)
    released = list(await session.scalars(entries.order_by(Experiment.id)))
    for experiment_id in released:
        await lock_experiment(session, experiment_id)
        free = update(QueueEntry).where(QueueEntry.experiment_id == experiment_id)
        await session.execute(free.values(held_by=None, held_reason="", held_at=None))
        await record_event(session, experiment_id, "released", f"released by {by}", detail={"by": by}, is_held=True)
    return released
