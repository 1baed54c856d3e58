"""How much experiments store: measured in the background, so that a quota on storage can be asked at submission."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

import fsspec
from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.scheduler.lease import Lease, hold_lease
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.scheduling_tables import OutputSize
from service.storage.tables import Experiment

logger = logging.getLogger(__name__)

_AT_ONCE = 20
_DEADLINE_S = 60.0
_WHILE_IT_RUNS = timedelta(minutes=10)
_AFTER_THE_END = timedelta(days=1)
"""Outputs of ended experiments are measured again so often: somebody may have deleted them."""


async def measure_outputs(sessions: Sessions, lease: Lease, output_dir: Callable[[str], str]) -> int:
    """Measures those whose figure is oldest or missing, a few at a time; returns how many. Raises LeaseLost."""
    async with sessions() as session:
        due = await _due(session)
    num_measured = 0
    for experiment_id in due:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                num_bytes = await asyncio.to_thread(_size, output_dir(experiment_id))
        except (OSError, ValueError, ImportError, TimeoutError) as error:
            logger.warning("outputs not measured", extra={"experiment_id": experiment_id, "error": str(error)})
            continue
        async with sessions.begin() as session:
            await hold_lease(session, lease)
            await _write(session, experiment_id, num_bytes)
        num_measured += 1
    return num_measured


async def _due(session: AsyncSession) -> list[str]:
    """Experiments that have begun: never measured, or too long ago."""
    now = await database_now(session)
    measured = OutputSize.measured_at
    running_due = Experiment.ended_at.is_(None) & (measured < now - _WHILE_IT_RUNS)
    ended_due = Experiment.ended_at.is_not(None) & or_(measured < Experiment.ended_at, measured < now - _AFTER_THE_END)
    statement = (
        select(Experiment.id)
        .outerjoin(OutputSize, OutputSize.experiment_id == Experiment.id)
        .where(Experiment.num_attempts > 0, or_(measured.is_(None), running_due, ended_due))
        .order_by(measured.asc().nulls_first())
        .limit(_AT_ONCE)
    )
    return list(await session.scalars(statement))


async def _write(session: AsyncSession, experiment_id: str, num_bytes: int) -> None:
    row = {"num_bytes": num_bytes, "measured_at": func.clock_timestamp()}
    statement = insert(OutputSize).values(experiment_id=experiment_id, **row)
    await session.execute(statement.on_conflict_do_update(index_elements=[OutputSize.experiment_id], set_=row))


def _size(place: str) -> int:
    """Bytes of all files below; 0 where nothing was written yet."""
    filesystem, path = fsspec.core.url_to_fs(place)
    return int(filesystem.du(path)) if filesystem.exists(path) else 0
