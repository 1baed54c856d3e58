"""Why each experiment waits, written for all at once and only where it changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import column, text, update, values
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Text

from service.contract.status import ExperimentStatus
from service.storage.scheduling_tables import QueueEntry
from service.storage.tables import Experiment
from service.storage.transitions import CHANNEL

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingReason:
    """One experiment's."""

    experiment_id: str
    code: str
    text: str
    waits_for: str | None = None


async def write_reasons(session: AsyncSession, changed: Sequence[WaitingReason]) -> None:
    """Writes them for those that are still queued, and tells live readers."""
    for first in range(0, len(changed), _AT_ONCE):
        await _write(session, changed[first : first + _AT_ONCE])


async def _write(session: AsyncSession, changed: Sequence[WaitingReason]) -> None:
    columns = [column(name, Text) for name in ("id", "code", "reason", "waits_for")]
    new = values(*columns, name="new").data([(one.experiment_id, one.code, one.text, one.waits_for) for one in changed])
    written = await session.scalars(
        update(Experiment)
        .where(Experiment.id == new.c.id, Experiment.status == ExperimentStatus.QUEUED.value)
        .values(waiting_reason=new.c.reason)
        .returning(Experiment.id)
        .execution_options(synchronize_session=False)
    )
    ids = list(written)
    await session.execute(
        update(QueueEntry)
        .where(QueueEntry.experiment_id == new.c.id)
        .values(wait_code=new.c.code, waits_for=new.c.waits_for)
        .execution_options(synchronize_session=False)
    )
    await session.execute(
        text("SELECT pg_notify(:channel, id) FROM unnest(cast(:ids AS text[])) AS id"), {"channel": CHANNEL, "ids": ids}
    )
