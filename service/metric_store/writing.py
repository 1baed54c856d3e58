"""Appends: every step of a series is stored once, however often it is sent.

All appends of an attempt hold its row, and attempts of one experiment never overlap. Hence

- a series can be read before it is written: nobody else writes it meanwhile;
- `change`, one more than the experiment's highest so far, rises in commit order: a reader that asks for what lies
  above its cursor never misses an append that was committed after its last look.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import MetricPoint
from service.metric_store.folding import MAX_TAIL_POINTS, fold
from service.storage.tables import Attempt, MetricSeries

_UPSERT_SERIES = text("""
    INSERT INTO metric_series AS series
        (experiment_id, attempt_id, name, num_points, tail_points, last_step, last_value, last_ts, change)
    SELECT :experiment_id, :attempt_id, name, num_points, num_points, last_step, last_value, last_ts, :change
    FROM unnest(CAST(:names AS text[]), CAST(:counts AS int[]), CAST(:last_steps AS bigint[]),
                CAST(:last_values AS float8[]), CAST(:last_ts AS timestamptz[]))
        AS fresh (name, num_points, last_step, last_value, last_ts)
    ON CONFLICT (attempt_id, name) DO UPDATE SET
        num_points = series.num_points + excluded.num_points,
        tail_points = series.tail_points + excluded.tail_points,
        last_step = excluded.last_step,
        last_value = excluded.last_value,
        last_ts = excluded.last_ts,
        change = excluded.change
    RETURNING id, name, tail_points
""")

# One row for each series of a batch, whatever the number of its points.
_INSERT_TAIL = text("""
    INSERT INTO metric_tail (series_id, first_step, steps, ts, values)
    SELECT series_id, min(step), array_agg(step ORDER BY place), array_agg(ts ORDER BY place),
           array_agg(value ORDER BY place)
    FROM unnest(CAST(:series_ids AS bigint[]), CAST(:steps AS bigint[]), CAST(:ts AS timestamptz[]),
                CAST(:values AS float8[])) WITH ORDINALITY AS point (series_id, step, ts, value, place)
    GROUP BY series_id
""")


@dataclass(slots=True)
class _Fresh:
    """What a batch adds to one series."""

    last_step: int
    steps: list[int] = field(default_factory=list)
    ts: list[datetime] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, point: MetricPoint) -> None:
        if point.step <= self.last_step:
            return  # sent before, or out of order
        self.last_step = point.step
        self.steps.append(point.step)
        self.ts.append(point.ts if point.ts.tzinfo else point.ts.replace(tzinfo=UTC))
        self.values.append(point.value)


async def append_points(session: AsyncSession, attempt: Attempt, points: Sequence[MetricPoint]) -> int:
    """Stores what is new in `points` and returns its count; NaN and infinities are stored as such.

    A point at or below its series' last step was sent before and is ignored. Takes the attempt's row lock.
    """
    if not points:
        return 0
    await session.execute(select(Attempt.id).where(Attempt.id == attempt.id).with_for_update(key_share=True))
    fresh = await _select_fresh(session, attempt.id, points)
    if not fresh:
        return 0
    tail_points = await _store(session, attempt, fresh)
    crowded = sorted(series_id for series_id, num_points in tail_points.items() if num_points > MAX_TAIL_POINTS)
    if crowded:
        await fold(session, crowded)
    return sum(len(series.steps) for series in fresh.values())


async def _select_fresh(session: AsyncSession, attempt_id: str, points: Iterable[MetricPoint]) -> dict[str, _Fresh]:
    """The new points by name; names sorted, so that no two writers ever lock series in different order."""
    names = sorted({point.name for point in points})
    known = select(MetricSeries.name, MetricSeries.last_step).where(
        MetricSeries.attempt_id == attempt_id, MetricSeries.name.in_(names)
    )
    last_steps = {name: last_step for name, last_step in await session.execute(known)}
    fresh = {name: _Fresh(last_step=last_steps.get(name, -1)) for name in names}
    for point in points:
        fresh[point.name].add(point)
    return {name: series for name, series in fresh.items() if series.steps}


async def _store(session: AsyncSession, attempt: Attempt, fresh: dict[str, _Fresh]) -> dict[int, int]:
    """Writes series and tail; returns the length of each touched tail by series id."""
    newest = await session.scalar(
        select(func.max(MetricSeries.change)).where(MetricSeries.experiment_id == attempt.experiment_id)
    )
    upserted = await session.execute(
        _UPSERT_SERIES,
        {
            "experiment_id": attempt.experiment_id,
            "attempt_id": attempt.id,
            "change": (newest or 0) + 1,
            "names": list(fresh),
            "counts": [len(series.steps) for series in fresh.values()],
            "last_steps": [series.last_step for series in fresh.values()],
            "last_values": [series.values[-1] for series in fresh.values()],
            "last_ts": [series.ts[-1] for series in fresh.values()],
        },
    )
    rows = upserted.all()
    await session.execute(
        _INSERT_TAIL,
        {
            "series_ids": [row.id for row in rows for _ in fresh[row.name].steps],
            "steps": [step for row in rows for step in fresh[row.name].steps],
            "ts": [ts for row in rows for ts in fresh[row.name].ts],
            "values": [value for row in rows for value in fresh[row.name].values],
        },
    )
    return {row.id: row.tail_points for row in rows}
