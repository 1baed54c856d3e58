"""Appends: every step of a series is stored once, however often it is sent.

All appends of an attempt hold its row, and attempts of one experiment never overlap. Hence

- a series can be read before it is written: nobody else writes it meanwhile;
- `change`, one more than the experiment's highest so far, rises in commit order: a reader that asks for what lies
  above its cursor never misses an append that was committed after its last look.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate, islice
from operator import lt

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.messages import MetricColumns, MetricPoint, WorkerReport
from service.metric_store.folding import MAX_TAIL_POINTS, fold
from service.storage.array_parameters import BigInts, Doubles, Times
from service.storage.tables import Attempt

_LOCK = text("SELECT 1 FROM attempts WHERE id = :attempt_id FOR NO KEY UPDATE")

# The outer join keeps a row where no name is known yet.
_KNOWN = text("""
    SELECT newest.newest, series.name, series.last_step
    FROM (SELECT coalesce(max(change), 0) AS newest FROM metric_series WHERE experiment_id = :experiment_id) AS newest
    LEFT JOIN metric_series AS series
        ON series.attempt_id = :attempt_id AND series.name = ANY(CAST(:names AS text[]))
""")

# Series and points at once; of the points one row for each series, whatever their number. The columns of all series
# come one behind the other, and each series has its slice of them, which costs less than to take them apart row by row.
_STORE = text("""
    WITH fresh AS (
        SELECT * FROM unnest(CAST(:names AS text[]), CAST(:firsts AS bigint[]), CAST(:lasts AS bigint[]),
                             CAST(:last_steps AS bigint[]), CAST(:last_values AS float8[]),
                             CAST(:last_ts AS timestamptz[]))
            AS fresh (name, first, last, last_step, last_value, last_ts)
    ), upserted AS (
        INSERT INTO metric_series AS series
            (experiment_id, attempt_id, name, num_points, tail_points, last_step, last_value, last_ts, change)
        SELECT :experiment_id, :attempt_id, name, last - first + 1, last - first + 1, last_step, last_value, last_ts,
               :change
        FROM fresh
        ON CONFLICT (attempt_id, name) DO UPDATE SET
            num_points = series.num_points + excluded.num_points,
            tail_points = series.tail_points + excluded.tail_points,
            last_step = excluded.last_step,
            last_value = excluded.last_value,
            last_ts = excluded.last_ts,
            change = excluded.change
        RETURNING id, name, tail_points
    ), points AS (
        INSERT INTO metric_tail (series_id, first_step, steps, ts, values)
        SELECT id, (CAST(:steps AS bigint[]))[first], (CAST(:steps AS bigint[]))[first:last],
               (CAST(:ts AS timestamptz[]))[first:last], (CAST(:values AS float8[]))[first:last]
        FROM upserted JOIN fresh USING (name)
    )
    SELECT id, tail_points FROM upserted
""")


@dataclass(slots=True, kw_only=True)
class _Fresh:
    """What a batch adds to one series."""

    last_step: int
    steps: list[int] = field(default_factory=list)
    ts: list[datetime] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, columns: MetricColumns) -> None:
        """Takes what is new: a step at or below the last one was sent before, or is out of order."""
        steps = columns.steps
        if steps[0] > self.last_step and all(map(lt, steps, islice(steps, 1, None))):
            self.steps += steps
            self.ts += columns.ts
            self.values += columns.values
            self.last_step = steps[-1]
            return
        for step, ts, value in zip(steps, columns.ts, columns.values, strict=True):
            if step > self.last_step:
                self.last_step = step
                self.steps.append(step)
                self.ts.append(ts)
                self.values.append(value)


async def append_points(session: AsyncSession, attempt: Attempt, points: Sequence[MetricPoint]) -> int:
    """Like `append_columns`, for single values."""
    return await append_columns(session, attempt, WorkerReport(seq=1, points=list(points)).columns())


async def append_columns(
    session: AsyncSession, attempt: Attempt, columns: Sequence[MetricColumns], *, is_held: bool = False
) -> int:
    """Stores what is new and returns its count; NaN and infinities are stored as such.

    A point at or below its series' last step was sent before and is ignored. Takes the attempt's row lock, unless the
    caller holds it.
    """
    if not columns:
        return 0
    if not is_held:
        await session.execute(_LOCK, {"attempt_id": attempt.id})
    fresh, change = await _select_fresh(session, attempt, columns)
    if not fresh:
        return 0
    tail_points = await _store(session, attempt, fresh, change)
    crowded = sorted(series_id for series_id, num_points in tail_points.items() if num_points > MAX_TAIL_POINTS)
    if crowded:
        await fold(session, crowded)
    return sum(len(series.steps) for series in fresh.values())


async def _select_fresh(
    session: AsyncSession, attempt: Attempt, columns: Sequence[MetricColumns]
) -> tuple[dict[str, _Fresh], int]:
    """The new points by name, and the experiment's highest change so far.

    Names are sorted, so that no two writers ever lock series in different order.
    """
    names = sorted({one.name for one in columns})
    known = await session.execute(
        _KNOWN, {"experiment_id": attempt.experiment_id, "attempt_id": attempt.id, "names": names}
    )
    rows = known.all()
    last_steps = {row.name: row.last_step for row in rows if row.name is not None}
    fresh = {name: _Fresh(last_step=last_steps.get(name, -1)) for name in names}
    for one in columns:
        fresh[one.name].add(one)
    return {name: series for name, series in fresh.items() if series.steps}, rows[0].newest


async def _store(session: AsyncSession, attempt: Attempt, fresh: dict[str, _Fresh], newest: int) -> dict[int, int]:
    """Writes series and tail; returns the length of each touched tail by series id."""
    series = list(fresh.values())
    lasts = list(accumulate(len(one.steps) for one in series))
    stored = await session.execute(
        _STORE,
        {
            "experiment_id": attempt.experiment_id,
            "attempt_id": attempt.id,
            "change": newest + 1,
            "names": list(fresh),
            # PostgreSQL counts from 1.
            "firsts": BigInts([last - len(one.steps) + 1 for one, last in zip(series, lasts, strict=True)]),
            "lasts": BigInts(lasts),
            "last_steps": BigInts([one.last_step for one in series]),
            "last_values": Doubles([one.values[-1] for one in series]),
            "last_ts": Times([one.ts[-1] for one in series]),
            "steps": BigInts([step for one in series for step in one.steps]),
            "ts": Times([ts for one in series for ts in one.ts]),
            "values": Doubles([value for one in series for value in one.values]),
        },
    )
    return {series_id: tail_points for series_id, tail_points in stored}
