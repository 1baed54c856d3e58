"""The rows behind series: tails as one array a series, chunks as their envelopes, and chunks unfolded on demand."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, DateTime, Select, literal, or_, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from service.metric_store.envelopes import Summary
from service.storage.tables import Attempt, MetricChunk, MetricLevel, MetricSeries

CHUNKS_PER_STATEMENT = 256
"""Bounds a statement to 131,072 points: a few megabytes and some tens of milliseconds."""


_SummaryRows = Select[int, int, int, int, int, float | None, float | None, float]
_TAILS = text("""
    SELECT series_id, array_agg(step ORDER BY step), array_agg(at ORDER BY step), array_agg(value ORDER BY step)
    FROM metric_tail, unnest(steps, ts, values) AS point (step, at, value)
    WHERE series_id = ANY(CAST(:series_ids AS bigint[])) AND step BETWEEN :first AND :last
    GROUP BY series_id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesKey:
    """One metric of one attempt."""

    id: int
    experiment_id: str
    name: str
    attempt_number: int
    num_points: int
    last_step: int

    @property
    def of(self) -> tuple[str, str]:
        """Experiment and name: what all attempts write together."""
        return self.experiment_id, self.name

    def points_within(self, first: int, last: int) -> float:
        """About how many points lie in [first, last], as if the steps were even."""
        covered = min(last, self.last_step) - first + 1
        return self.num_points * max(covered, 0) / (self.last_step + 1)


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
    is_coarse: bool = False
    """It stands for many chunks: there are no points to unfold."""

    @property
    def key(self) -> tuple[int, int]:
        """Series and first step, the row's key."""
        return self.series.id, self.summary.first_step


async def load_series(
    session: AsyncSession, experiment_ids: Collection[str], names: Collection[str]
) -> dict[int, SeriesKey]:
    """The experiments' series by id, all of them or those named."""
    wanted = (
        select(
            MetricSeries.id,
            MetricSeries.experiment_id,
            MetricSeries.name,
            Attempt.number.label("attempt_number"),
            MetricSeries.num_points,
            MetricSeries.last_step,
        )
        .join(Attempt, Attempt.id == MetricSeries.attempt_id)
        .where(MetricSeries.experiment_id.in_(sorted(experiment_ids)))
    )
    if names:
        wanted = wanted.where(MetricSeries.name.in_(sorted(names)))
    return {row.id: SeriesKey(**row._mapping) for row in await session.execute(wanted)}


async def load_tails(session: AsyncSession, series: Mapping[int, SeriesKey], first: int, last: int) -> list[Stretch]:
    """The rows of the tails with a step in [first, last]."""
    rows = await session.execute(_TAILS, {"series_ids": sorted(series), "first": first, "last": last})
    return [
        Stretch(series=series[series_id], steps=steps, ts=ts, values=values) for series_id, steps, ts, values in rows
    ]


async def load_chunks(
    session: AsyncSession, series: Mapping[int, SeriesKey], first: int, last: int, levels: Mapping[int, int]
) -> list[Chunk]:
    """The envelopes of the chunks that reach into [first, last]; their arrays stay where they are.

    `levels` names series of which coarser envelopes will do: those that lie within [first, last] take their chunks'
    place.
    """
    plain = [series_id for series_id in sorted(series) if series_id not in levels]
    found = await _load_summaries(session, series, _reaching(MetricChunk, first, last, plain)) if plain else []
    for series_id, level in levels.items():
        inside = (MetricLevel.level == level, MetricLevel.first_step >= first, MetricLevel.last_step <= last)
        rows = _summaries_of(MetricLevel).where(MetricLevel.series_id == series_id, *inside)
        coarse = await _load_summaries(session, series, rows.order_by(MetricLevel.first_step), is_coarse=True)
        edges = _reaching(MetricChunk, first, last, [series_id])
        if coarse:
            start, end = coarse[0].summary.first_step, coarse[-1].summary.last_step
            edges = edges.where(or_(MetricChunk.last_step < start, MetricChunk.first_step > end))
        found += coarse + await _load_summaries(session, series, edges)
    return sorted(found, key=lambda chunk: chunk.key)


def _reaching(table: type[MetricChunk], first: int, last: int, series_ids: Sequence[int]) -> _SummaryRows:
    rows = _summaries_of(table).where(table.series_id.in_(series_ids), table.last_step >= first)
    return rows.where(table.first_step <= last).order_by(table.series_id, table.first_step)


def _summaries_of(table: type[MetricChunk] | type[MetricLevel]) -> _SummaryRows:
    return select(
        table.series_id,
        table.first_step,
        table.last_step,
        table.num_points,
        table.num_finite,
        table.value_min,
        table.value_max,
        table.value_sum,
    )


async def _load_summaries(
    session: AsyncSession, series: Mapping[int, SeriesKey], rows: _SummaryRows, *, is_coarse: bool = False
) -> list[Chunk]:
    return [
        Chunk(
            series=series[series_id],
            is_coarse=is_coarse,
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
