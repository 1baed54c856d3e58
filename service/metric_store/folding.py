"""Folds tails into chunks with their envelope, and envelopes into coarser ones.

tail ──(> 1,024 points: whole chunks but the newest; after the run: all)──> chunks of 512
level 0: chunks (512 points) ──32──> level 1 (16,384) ──32──> level 2 (524,288)
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import AttemptStatus
from service.metric_store.envelopes import LARGEST_DRAWN
from service.storage.tables import Attempt, MetricSeries

CHUNK_POINTS = 512
MAX_TAIL_POINTS = 1024
"""Beyond so many points the oldest whole chunks leave the tail; at least 512 stay."""
LEVEL_FACTOR = 32
LEVELS = (1, 2)

# One statement for all series of a batch: metrics of one step reach the limit together.
_FOLD = text("""
    WITH excess AS (
        SELECT id AS series_id, CASE WHEN :everything THEN tail_points
            ELSE (tail_points - :chunk_points) / :chunk_points * :chunk_points END AS num_points
        FROM metric_series WHERE id = ANY(CAST(:series_ids AS bigint[]))
    ), gone AS (
        DELETE FROM metric_tail AS tail USING excess WHERE tail.series_id = excess.series_id
        RETURNING tail.series_id, tail.steps, tail.ts, tail.values
    ), points AS (
        SELECT series_id, step, at, value, abs(value) <= :largest_drawn AS is_drawn, num_points,
               row_number() OVER (PARTITION BY series_id ORDER BY step) - 1 AS place
        FROM gone JOIN excess USING (series_id), unnest(steps, ts, values) AS point (step, at, value)
    ), kept AS (
        INSERT INTO metric_tail (series_id, first_step, steps, ts, values)
        SELECT series_id, min(step), array_agg(step ORDER BY step), array_agg(at ORDER BY step),
               array_agg(value ORDER BY step)
        FROM points WHERE place >= num_points GROUP BY series_id
    ), shortened AS (
        UPDATE metric_series SET tail_points = tail_points - excess.num_points
        FROM excess WHERE id = excess.series_id
    )
    INSERT INTO metric_chunks
        (series_id, first_step, last_step, num_points, num_finite, value_min, value_max, value_sum, steps, ts, values)
    SELECT series_id, min(step), max(step), count(*), count(*) FILTER (WHERE is_drawn),
           min(value) FILTER (WHERE is_drawn), max(value) FILTER (WHERE is_drawn),
           coalesce(sum(value) FILTER (WHERE is_drawn), 0),
           array_agg(step ORDER BY step), array_agg(at ORDER BY step), array_agg(value ORDER BY step)
    FROM points WHERE place < num_points GROUP BY series_id, place / :chunk_points
""")

_RAISE = """
    WITH done AS (
        SELECT id AS series_id, coalesce((SELECT max(last_step) FROM metric_levels
            WHERE series_id = id AND level = :level), -1) AS last_step
        FROM metric_series WHERE id = ANY(CAST(:series_ids AS bigint[]))
    ), numbered AS (
        SELECT finer.*, (row_number() OVER series - 1) / :factor AS part,
               count(*) OVER (PARTITION BY finer.series_id) / :factor AS whole_parts
        FROM {finer} AS finer JOIN done USING (series_id)
        WHERE finer.first_step > done.last_step {of_level}
        WINDOW series AS (PARTITION BY finer.series_id ORDER BY finer.first_step)
    )
    INSERT INTO metric_levels
        (series_id, level, first_step, last_step, num_points, num_finite, value_min, value_max, value_sum)
    SELECT series_id, :level, min(first_step), max(last_step), sum(num_points), sum(num_finite), min(value_min),
           max(value_max), sum(value_sum)
    FROM numbered WHERE part < whole_parts GROUP BY series_id, part
"""
_FINER = "(SELECT series_id, first_step, last_step, num_points, num_finite, value_min, value_max, value_sum FROM {})"
_RAISE_CHUNKS = text(_RAISE.format(finer=_FINER.format("metric_chunks"), of_level=""))
_RAISE_LEVELS = text(
    _RAISE.format(
        finer="(SELECT * FROM metric_levels)",
        of_level="AND finer.level = :level - 1",
    )
)


async def fold(
    session: AsyncSession,
    series_ids: Sequence[int],
    *,
    everything: bool = False,
    chunk_points: int = CHUNK_POINTS,
    factor: int = LEVEL_FACTOR,
) -> None:
    """Moves whole chunks out of the tails, or `everything`, of series whose attempt's row is held."""
    ids = sorted(series_ids)
    facts = {"series_ids": ids, "chunk_points": chunk_points, "largest_drawn": LARGEST_DRAWN}
    await session.execute(_FOLD, {**facts, "everything": everything})
    for level in LEVELS:
        statement = _RAISE_CHUNKS if level == 1 else _RAISE_LEVELS
        await session.execute(statement, {"series_ids": ids, "level": level, "factor": factor})


async def fold_finished(session: AsyncSession, *, ended_for: timedelta, most: int = 500) -> int:
    """Folds the whole tails of series whose attempt ended so long ago; returns how many series, at most `most`.

    Nothing is appended to them any more, and arrays take a fifth of the space.
    """
    due = (
        select(MetricSeries.id)
        .join(Attempt, Attempt.id == MetricSeries.attempt_id)
        .where(
            MetricSeries.tail_points > 0,
            Attempt.status == AttemptStatus.ENDED.value,
            Attempt.ended_at < func.now() - ended_for,
        )
        .order_by(MetricSeries.id)
        .limit(most)
        .with_for_update(of=MetricSeries, skip_locked=True)
    )
    ids = list(await session.scalars(due))
    if ids:
        await fold(session, ids, everything=True)
    return len(ids)
