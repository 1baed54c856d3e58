"""The first forecast of each experiment's start, kept to be compared with what came."""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.storage.scheduling_tables import StartForecast

_AT_ONCE = 1000


async def keep_first(session: AsyncSession, starts: Mapping[str, float], now: datetime) -> None:
    """By experiment id, its predicted start in seconds since the epoch; whoever has a forecast keeps it."""
    rows = [
        {"experiment_id": name, "made_at": now, "predicted_at": datetime.fromtimestamp(at, UTC)}
        for name, at in starts.items()
        if isfinite(at)
    ]
    for first in range(0, len(rows), _AT_ONCE):
        await session.execute(insert(StartForecast).values(rows[first : first + _AT_ONCE]).on_conflict_do_nothing())


async def note_start(session: AsyncSession, experiment_id: str, now: datetime) -> None:
    """It starts now, for the first time; later attempts say nothing about the queue."""
    first = (StartForecast.experiment_id == experiment_id, StartForecast.started_at.is_(None))
    await session.execute(update(StartForecast).where(*first).values(started_at=now))
