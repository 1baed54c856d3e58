"""When the steps of a metric were reached, by some of them: what turns steps into times, tokens and device-hours.

Every point of the tail has its time; of a chunk, which holds hundreds of points, the first and the last one are read.
Between two knots a reader interpolates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_KNOTS = text("""
    WITH series AS (
        SELECT metric_series.id, attempts.number
        FROM metric_series JOIN attempts ON attempts.id = metric_series.attempt_id
        WHERE metric_series.experiment_id = :experiment_id AND metric_series.name = :name
    ), known AS (
        SELECT number, first_step AS step, ts[1] AS at FROM metric_chunks JOIN series ON series.id = series_id
        UNION
        SELECT number, last_step, ts[num_points] FROM metric_chunks JOIN series ON series.id = series_id
        UNION
        SELECT number, point.step, point.at FROM metric_tail JOIN series ON series.id = series_id,
            unnest(steps, ts) AS point (step, at)
    )
    SELECT number, step, at FROM known ORDER BY number, step
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Knot:
    """A step, and when it was reached."""

    step: int
    ts: datetime


@dataclass(frozen=True, slots=True)
class _Known:
    attempt_number: int
    step: int
    ts: datetime


async def read_knots(session: AsyncSession, experiment_id: str, name: str, most: int) -> list[Knot]:
    """At most `most` (at least 2) knots of a metric, steps rising, the first and the last of all among them.

    Where steps were run again, the latest attempt's times stand, as in series.
    """
    rows = await session.execute(_KNOTS, {"experiment_id": experiment_id, "name": name})
    knots = _latest([_Known(number, step, at) for number, step, at in rows])
    return _thinned(knots, most)


def _latest(known: Sequence[_Known]) -> list[Knot]:
    """Without those that a later attempt has run again; `known` by attempt, then step."""
    spans: dict[int, tuple[int, int]] = {}
    for one in known:
        first, _ = spans.get(one.attempt_number, (one.step, one.step))
        spans[one.attempt_number] = (first, one.step)
    kept = {
        one.step: Knot(step=one.step, ts=one.ts)
        for one in known
        if not any(number > one.attempt_number and first <= one.step <= last for number, (first, last) in spans.items())
    }
    return [kept[step] for step in sorted(kept)]


def _thinned(knots: Sequence[Knot], most: int) -> list[Knot]:
    if len(knots) <= most:
        return list(knots)
    places = {round(number * (len(knots) - 1) / (most - 1)) for number in range(most)}
    return [knots[place] for place in sorted(places)]
