"""How the scheduler saw the queue last, in one row: everybody's place, expected start, and the terms behind them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.storage.scheduling_tables import QueueSnapshot


async def write_snapshot(
    session: AsyncSession,
    *,
    now: datetime,
    experiment_ids: Sequence[str],
    facts: dict[str, Any],
    starts: Sequence[float] = (),
) -> None:
    """Replaces the last one. `starts` are expected ones in the order of the ids, in seconds since the epoch."""
    row: dict[str, Any] = {
        "decided_at": now,
        "experiment_ids": list(experiment_ids),
        "starts": list(starts),
        "facts": facts,
    }
    statement = insert(QueueSnapshot).values(id=1, **row)
    await session.execute(statement.on_conflict_do_update(index_elements=[QueueSnapshot.id], set_=row))


async def read_snapshot(session: AsyncSession) -> QueueSnapshot | None:
    """None before the first pass."""
    return await session.get(QueueSnapshot, 1, populate_existing=True)
