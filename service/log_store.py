"""Log lines and rollouts that people read.

Lines here are the newest: `log_archive` moves older ones into the storage. Should that fail for long, an attempt keeps
its first 2,000 lines, where a run explains itself, and its newest 20,000, where it fails. One line between them says
how many are missing.
"""

import re
from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import LogLine, RolloutSample
from service.contract.stages import StageName
from service.storage.json_values import storable_text
from service.storage.log_tables import LogChunkRow
from service.storage.tables import Attempt, LogLineRow, RolloutSampleRow

FIRST_LINES = 2_000
NEWEST_LINES = 20_000
MARKER_SOURCE = "service"
"""Source of the line that stands for those left out; drivers cannot use it."""

_IDS_BETWEEN_CHECKS = 1_024
"""Finding the surplus reads the attempt's lines, so it is done only when the ids of a batch pass a multiple of this:
about once per so many lines of an attempt, which is also how far it may run over."""


async def append_lines(session: AsyncSession, attempt: Attempt, lines: Sequence[LogLine]) -> None:
    """Stores lines in their order. Takes the attempt's row lock, so that ids rise in commit order."""
    if not lines:
        return
    await session.execute(select(Attempt.id).where(Attempt.id == attempt.id).with_for_update(key_share=True))
    rows = [
        {
            "experiment_id": attempt.experiment_id,
            "attempt_id": attempt.id,
            "ts": line.ts,
            "source": line.source,
            "text": storable_text(line.text),
        }
        for line in lines
    ]
    ids = (await session.scalars(insert(LogLineRow).returning(LogLineRow.id, sort_by_parameter_order=True), rows)).all()
    if (min(ids) - 1) // _IDS_BETWEEN_CHECKS != max(ids) // _IDS_BETWEEN_CHECKS:
        await leave_out_surplus(session, attempt)


async def leave_out_surplus(
    session: AsyncSession, attempt: Attempt, *, first: int = FIRST_LINES, newest: int = NEWEST_LINES
) -> None:
    """Removes the attempt's lines between its `first` and its `newest` ones; the last of them becomes the marker."""
    ids = select(LogLineRow.id).where(
        LogLineRow.experiment_id == attempt.experiment_id, LogLineRow.attempt_id == attempt.id
    )
    start = await session.scalar(ids.order_by(LogLineRow.id).offset(first).limit(1))
    end = await session.scalar(ids.order_by(LogLineRow.id.desc()).offset(newest).limit(1))
    if start is None or end is None or end <= start:
        return
    surplus = delete(LogLineRow).where(
        LogLineRow.experiment_id == attempt.experiment_id,
        LogLineRow.attempt_id == attempt.id,
        LogLineRow.id >= start,
        LogLineRow.id < end,
    )
    removed = (await session.execute(surplus.returning(LogLineRow.source, LogLineRow.text))).all()
    left_out = sum(_num_left_out(source, line) for source, line in removed) + 1
    marker = f"{left_out} lines left out: an attempt keeps its first {first:,} and its newest {newest:,} lines"
    await session.execute(update(LogLineRow).where(LogLineRow.id == end).values(source=MARKER_SOURCE, text=marker))


async def append_rollouts(session: AsyncSession, attempt: Attempt, rollouts: Sequence[RolloutSample]) -> None:
    """Stores completions in their order."""
    if not rollouts:
        return
    rows = [
        {
            **rollout.model_dump(),
            "experiment_id": attempt.experiment_id,
            "attempt_id": attempt.id,
            "prompt": storable_text(rollout.prompt),
            "completion": storable_text(rollout.completion),
            "answer": storable_text(rollout.answer),
        }
        for rollout in rollouts
    ]
    await session.execute(insert(RolloutSampleRow), rows)


async def tails_by_source(session: AsyncSession, attempt: Attempt, *, lines: int, sources: int) -> dict[str, list[str]]:
    """The newest `lines` lines of each source of an attempt, oldest first; of the `sources` that were heard last."""
    place = func.row_number().over(partition_by=LogLineRow.source, order_by=LogLineRow.id.desc())
    numbered = select(LogLineRow.id, LogLineRow.source, LogLineRow.text, place.label("place")).where(
        LogLineRow.experiment_id == attempt.experiment_id,
        LogLineRow.attempt_id == attempt.id,
        LogLineRow.source != MARKER_SOURCE,
    )
    rows = numbered.subquery()
    newest = select(rows.c.source, rows.c.text).where(rows.c.place <= lines).order_by(rows.c.id.desc())
    tails: dict[str, list[str]] = {}
    for source, line in await session.execute(newest):
        if source in tails or len(tails) < sources:
            tails.setdefault(source, []).append(line)
    return {source: tail[::-1] for source, tail in tails.items()}


async def last_line_id(session: AsyncSession, experiment_id: str) -> int:
    """Id of the newest line, in the database or in the storage; 0 without any."""
    newest = select(func.max(LogLineRow.id)).where(LogLineRow.experiment_id == experiment_id).scalar_subquery()
    shipped = select(func.max(LogChunkRow.last_id)).where(LogChunkRow.experiment_id == experiment_id).scalar_subquery()
    return await session.scalar(select(func.greatest(newest, shipped))) or 0


async def rollouts_before(
    session: AsyncSession,
    experiment_id: str,
    *,
    stage: StageName | None = None,
    step: int | None = None,
    before: int | None = None,
    limit: int,
) -> Sequence[RolloutSampleRow]:
    """Completions with an id below `before`, newest first, of one stage and step where given."""
    rows = select(RolloutSampleRow).where(RolloutSampleRow.experiment_id == experiment_id)
    if stage is not None:
        rows = rows.where(RolloutSampleRow.stage == stage)
    if step is not None:
        rows = rows.where(RolloutSampleRow.step == step)
    if before is not None:
        rows = rows.where(RolloutSampleRow.id < before)
    return (await session.scalars(rows.order_by(RolloutSampleRow.id.desc()).limit(limit))).all()


def _num_left_out(source: str, line: str) -> int:
    """How many lines a removed one stands for: itself, or those that an earlier marker counted."""
    counted = re.match(r"(\d+) lines left out", line) if source == MARKER_SOURCE else None
    return int(counted[1]) if counted else 1
