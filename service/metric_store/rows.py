"""The rows behind series: tails as one array a series, chunks as their envelopes, and chunks unfolded on demand."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, DateTime, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from service.metric_store.envelopes import Summary
from service.storage.tables import Attempt, MetricChunk, MetricSeries, MetricTail

CHUNKS_PER_STATEMENT = 256
"""Bounds a statement to 131,072 points: a few megabytes and some tens of milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesKey:
    """One metric of one attempt."""

    id: int
    name: str
    attempt_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """At least one point of one series: columns of equal length, steps rising; `ts` is empty if no times were read."""

    series: SeriesKey
    steps: Sequence[int]
    ts: Sequence[datetime]
    values: Sequence[float]

    @property
    def key(self) -> tuple[int, int]:
        """Series and first step; the key of the chunk that a stretch was unfolded from."""
        return self.series.id, self.steps[0]

    def within(self, first: int, last: int) -> "Stretch | None":
        """The points in [first, last]; None without any."""
        start, end = bisect_left(self.steps, first), bisect_right(self.steps, last)
        if start >= end:
            return None
        return Stretch(
            series=self.series, steps=self.steps[start:end], ts=self.ts[start:end], values=self.values[start:end]
        )

    def at(self, places: Sequence[int]) -> "Stretch":
        """The points at these places, which rise."""
        return Stretch(
            series=self.series,
            steps=[self.steps[place] for place in places],
            ts=[self.ts[place] for place in places],
            values=[self.values[place] for place in places],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A stored chunk of which only the envelope was read."""

    series: SeriesKey
    summary: Summary

    @property
    def key(self) -> tuple[int, int]:
        """Series and first step, the row's key."""
        return self.series.id, self.summary.first_step


async def load_series(session: AsyncSession, experiment_id: str, names: Collection[str]) -> dict[int, SeriesKey]:
    """The experiment's series by id, all of them or those named."""
    wanted = (
        select(MetricSeries.id, MetricSeries.name, Attempt.number)
        .join(Attempt, Attempt.id == MetricSeries.attempt_id)
        .where(MetricSeries.experiment_id == experiment_id)
    )
    if names:
        wanted = wanted.where(MetricSeries.name.in_(sorted(names)))
    return {
        series_id: SeriesKey(id=series_id, name=name, attempt_number=number)
        for series_id, name, number in await session.execute(wanted)
    }


async def load_tails(session: AsyncSession, series: Mapping[int, SeriesKey], first: int, last: int) -> list[Stretch]:
    """The rows of the tails with a step in [first, last]."""
    rows = (
        select(
            MetricTail.series_id,
            func.array_agg(aggregate_order_by(MetricTail.step, MetricTail.step)),
            func.array_agg(aggregate_order_by(MetricTail.ts, MetricTail.step)),
            func.array_agg(aggregate_order_by(MetricTail.value, MetricTail.step)),
        )
        .where(MetricTail.series_id.in_(sorted(series)), MetricTail.step.between(first, last))
        .group_by(MetricTail.series_id)
    )
    return [
        Stretch(series=series[series_id], steps=steps, ts=ts, values=values)
        for series_id, steps, ts, values in await session.execute(rows)
    ]


async def load_chunks(session: AsyncSession, series: Mapping[int, SeriesKey], first: int, last: int) -> list[Chunk]:
    """The envelopes of the chunks that reach into [first, last]; their arrays stay where they are."""
    rows = (
        select(
            MetricChunk.series_id,
            MetricChunk.first_step,
            MetricChunk.last_step,
            MetricChunk.num_points,
            MetricChunk.num_finite,
            MetricChunk.value_min,
            MetricChunk.value_max,
            MetricChunk.value_sum,
        )
        .where(
            MetricChunk.series_id.in_(sorted(series)), MetricChunk.last_step >= first, MetricChunk.first_step <= last
        )
        .order_by(MetricChunk.series_id, MetricChunk.first_step)
    )
    return [
        Chunk(
            series=series[series_id],
            summary=Summary(
                first_step=first_step,
                last_step=last_step,
                num_points=num_points,
                num_finite=num_finite,
                value_min=value_min,
                value_max=value_max,
                value_sum=value_sum,
            ),
        )
        for series_id, first_step, last_step, num_points, num_finite, value_min, value_max, value_sum in (
            await session.execute(rows)
        )
    ]


async def unfold(session: AsyncSession, chunks: Sequence[Chunk], *, with_times: bool = True) -> list[Stretch]:
    """The points of the chunks; without their times, which take the longest to read, where nobody asks for them."""
    unfolded: list[Stretch] = []
    for start in range(0, len(chunks), CHUNKS_PER_STATEMENT):
        unfolded.extend(await _unfold_some(session, chunks[start : start + CHUNKS_PER_STATEMENT], with_times))
    return unfolded


async def _unfold_some(session: AsyncSession, chunks: Iterable[Chunk], with_times: bool) -> list[Stretch]:
    series = {chunk.key: chunk.series for chunk in chunks}
    times = MetricChunk.ts if with_times else literal([], ARRAY(DateTime(timezone=True)))
    rows = (
        select(MetricChunk.series_id, MetricChunk.first_step, MetricChunk.steps, times, MetricChunk.values)
        .where(tuple_(MetricChunk.series_id, MetricChunk.first_step).in_(list(series)))
        .order_by(MetricChunk.series_id, MetricChunk.first_step)
    )
    return [
        Stretch(series=series[series_id, first_step], steps=steps, ts=ts, values=values)
        for series_id, first_step, steps, ts, values in await session.execute(rows)
    ]
