"""Moves lines out of the database: of a live run all but the newest, of a finished one everything.

    read the oldest lines ──> write the file ──> one transaction: the file's row in, the lines out
                              (no session open)   (undone if another has moved them meanwhile)

Lines of an experiment are committed in the order of their ids, so nothing can appear below those that were read. Who
dies between file and transaction leaves a file that the next pass writes again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import ExperimentStatus
from service.errors import StorageUnavailable
from service.log_archive.files import ArchivedLine, chunk_name, write_chunk
from service.storage.database import Sessions
from service.storage.log_tables import LogChunkRow
from service.storage.tables import Attempt, Experiment, LogLineRow

logger = logging.getLogger(__name__)

_TERMINAL = [status.value for status in ExperimentStatus if status.is_terminal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What stays in the database."""

    newest_lines: int = 2_000
    """Of an experiment that is not over."""
    finished_for: timedelta = timedelta(minutes=10)
    """How long the log of a finished experiment stays."""
    chunk_lines: int = 2_000
    """Of one file."""


async def ship_logs(sessions: Sessions, output_dir: Callable[[str], str], keep: Keep, *, most_chunks: int = 50) -> int:
    """Ships what is due, at most so many files in one pass; returns how many. Storage that fails ends the pass."""
    shipped = 0
    async with sessions() as session:
        due = await _due(session, keep)
    for experiment_id, num_lines in due:
        while num_lines > 0 and shipped < most_chunks:
            moved = await _ship_chunk(
                sessions, output_dir(experiment_id), experiment_id, min(num_lines, keep.chunk_lines)
            )
            if not moved:
                break
            num_lines -= moved
            shipped += 1
    return shipped


async def _due(session: AsyncSession, keep: Keep) -> list[tuple[str, int]]:
    """Experiments with the number of lines that may go: whole files of a live one, everything of a finished one."""
    counted = (
        select(LogLineRow.experiment_id, func.count().label("lines")).group_by(LogLineRow.experiment_id).subquery()
    )
    unreleased = select(Attempt.id).where(Attempt.experiment_id == Experiment.id, Attempt.released_at.is_(None))
    finished = (
        Experiment.status.in_(_TERMINAL) & (Experiment.ended_at < func.now() - keep.finished_for) & ~unreleased.exists()
    )
    rows = select(counted.c.experiment_id, counted.c.lines, finished.label("finished")).join(
        Experiment, Experiment.id == counted.c.experiment_id
    )
    due = []
    for experiment_id, lines, is_finished in await session.execute(rows):
        movable = lines if is_finished else (lines - keep.newest_lines) // keep.chunk_lines * keep.chunk_lines
        if movable > 0:
            due.append((experiment_id, movable))
    return due


async def _ship_chunk(sessions: Sessions, output_dir: str, experiment_id: str, num_lines: int) -> int:
    """Moves the oldest lines into one file; returns how many, or 0 if that has to wait."""
    async with sessions() as session:
        lines = await _oldest(session, experiment_id, num_lines)
    if not lines:
        return 0
    try:
        num_bytes = await write_chunk(output_dir, chunk_name(lines[0].id, lines[-1].id), lines)
    except StorageUnavailable as error:
        logger.warning("log not shipped", extra={"experiment_id": experiment_id, "error": error.message})
        return 0
    async with sessions.begin() as session:
        between = (LogLineRow.experiment_id == experiment_id, LogLineRow.id <= lines[-1].id)
        gone = (await session.scalars(delete(LogLineRow).where(*between).returning(LogLineRow.id))).all()
        if len(gone) != len(lines):
            await session.rollback()  # another scheduler, or the guard against floods, was faster
            return 0
        await session.execute(insert(LogChunkRow).values(_row(experiment_id, lines, num_bytes)))
    return len(lines)


async def _oldest(session: AsyncSession, experiment_id: str, num_lines: int) -> list[ArchivedLine]:
    rows = (
        select(LogLineRow.id, LogLineRow.ts, Attempt.number, LogLineRow.source, LogLineRow.text)
        .join(Attempt, Attempt.id == LogLineRow.attempt_id)
        .where(LogLineRow.experiment_id == experiment_id)
        .order_by(LogLineRow.id)
        .limit(num_lines)
    )
    return [
        ArchivedLine(id=line_id, ts=ts, attempt_number=number, source=source, text=line)
        for line_id, ts, number, source, line in await session.execute(rows)
    ]


def _row(experiment_id: str, lines: Sequence[ArchivedLine], num_bytes: int) -> dict[str, object]:
    return {
        "experiment_id": experiment_id,
        "first_id": lines[0].id,
        "last_id": lines[-1].id,
        "num_lines": len(lines),
        "num_bytes": num_bytes,
        "sources": sorted({line.source for line in lines}),
        "attempt_numbers": sorted({line.attempt_number for line in lines}),
        "first_ts": lines[0].ts,
        "last_ts": lines[-1].ts,
    }
