"""Series as a plot needs them: raw points if they fit, else envelopes, merged over attempts; of one experiment or many.

A resumed attempt runs steps again; for each step the latest attempt that has it wins. A chunk that no other attempt
reaches into is taken whole, from its envelope; only the others are unfolded.

Appends may fold a tail into a chunk between the statements here. The tail is read first and chunks after it, so that
a point is then seen twice, never not at all, and what a chunk covers is dropped from the tail.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy.ext.asyncio import AsyncSession

from service.metric_store.envelopes import Bucket, Run, Summary, build_envelope
from service.metric_store.folding import CHUNK_POINTS, LEVEL_FACTOR, LEVELS
from service.metric_store.rows import (
    CHUNKS_PER_STATEMENT,
    Chunk,
    SeriesKey,
    Stretch,
    load_chunks,
    load_series,
    load_tails,
    unfold,
)

_ENOUGH_BUCKETS = 0.25
"""Chunks stay whole as soon as they alone give so large a share of the buckets asked for: no array is read then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Columns of equal length, steps rising."""

    steps: Sequence[int]
    ts: Sequence[datetime]
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStart:
    """The first step that an attempt contributed."""

    number: int
    first_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric over the steps asked for: `points` or, where they do not fit, `envelope`."""

    name: str
    num_points: int
    points: Points | None
    envelope: list[Bucket]
    attempts: list[AttemptStart]


@dataclass(slots=True, kw_only=True)
class _Parts:
    """What is known of one experiment's metric: stretches of points, and chunks of which only the envelope was read."""

    of: tuple[str, str]
    """Experiment and name."""
    stretches: list[Stretch]
    chunks: list[Chunk]

    @property
    def num_points(self) -> int:
        """Steps with a value, once stretches are merged."""
        whole = sum(chunk.summary.num_points for chunk in self.chunks)
        return whole + sum(len(stretch.steps) for stretch in self.stretches)


async def read_series(
    session: AsyncSession,
    experiment_id: str,
    names: Collection[str] = (),
    max_points: int = 1000,
    from_step: int | None = None,
    to_step: int | None = None,
) -> list[Series]:
    """The named series, or every one, names sorted; a name without points in [from_step, to_step] is left out.

    Each has at most `max_points` points or buckets (at least 1).
    """
    found = await read_many(session, [experiment_id], names, max_points, from_step, to_step)
    return found.get(experiment_id, [])


async def read_many(
    session: AsyncSession,
    experiment_ids: Collection[str],
    names: Collection[str] = (),
    max_points: int = 1000,
    from_step: int | None = None,
    to_step: int | None = None,
) -> dict[str, list[Series]]:
    """The same of many experiments with as many statements as of one; those without such a series are left out."""
    first, last = from_step if from_step is not None else 0, to_step if to_step is not None else 2**63 - 1
    series = await load_series(session, experiment_ids, names)
    tails = await load_tails(session, series, first, last)
    chunks = await load_chunks(session, series, first, last, _levels(series.values(), max_points, first, last))
    parts = list(_gather(tails, chunks))
    await _unfold_contested(session, parts, first, last)
    found: dict[str, list[Series]] = {}
    # A chunk may span the steps asked for without a point among them.
    for group in _in_groups([part for part in parts if part.num_points], max_points):
        for part, unfolded in await _unfold_group(session, group, max_points):
            found.setdefault(part.of[0], []).append(_finish(part, max_points, unfolded))
    return found


def _levels(series: Collection[SeriesKey], max_points: int, first: int, last: int) -> dict[int, int]:
    """By series id, the coarsest envelopes that still give a plot its buckets; none where several attempts may meet."""
    attempts = Counter(one.of for one in series)
    found: dict[int, int] = {}
    for one in series:
        for level in LEVELS if attempts[one.of] == 1 else ():
            num_buckets = one.points_within(first, last) / (CHUNK_POINTS * LEVEL_FACTOR**level)
            if num_buckets >= max(max_points * _ENOUGH_BUCKETS, 1):
                found[one.id] = level
    return found


def _gather(tails: Iterable[Stretch], chunks: Iterable[Chunk]) -> Iterator[_Parts]:
    """By experiment and name; tail points that a chunk of their series covers are dropped."""
    covered: dict[int, int] = {}
    found: dict[tuple[str, str], _Parts] = {}
    for chunk in chunks:
        covered[chunk.series.id] = max(chunk.summary.last_step, covered.get(chunk.series.id, -1))
        found.setdefault(chunk.series.of, _Parts(of=chunk.series.of, stretches=[], chunks=[])).chunks.append(chunk)
    for tail in tails:
        if kept := tail.within(covered.get(tail.series.id, -1) + 1, tail.steps[-1]):
            found.setdefault(tail.series.of, _Parts(of=tail.series.of, stretches=[], chunks=[])).stretches.append(kept)
    for of in sorted(found):
        yield found[of]


async def _unfold_contested(session: AsyncSession, parts: Sequence[_Parts], first: int, last: int) -> None:
    """Reads the points of chunks that reach beyond the steps asked for or into another attempt's."""
    contested = [chunk for part in parts for chunk in _contested(part, first, last)]
    keys = {chunk.key for chunk in contested}
    unfolded = {stretch.key: stretch.within(first, last) for stretch in await unfold(session, contested)}
    for part in parts:
        own = [unfolded[chunk.key] for chunk in part.chunks if chunk.key in keys]
        part.stretches = _merge([*part.stretches, *(stretch for stretch in own if stretch)])
        part.chunks = [chunk for chunk in part.chunks if chunk.key not in keys]


def _contested(part: _Parts, first: int, last: int) -> Iterator[Chunk]:
    spans: dict[int, tuple[int, int]] = {}
    for series_id, start, end in [
        *((chunk.series.id, chunk.summary.first_step, chunk.summary.last_step) for chunk in part.chunks),
        *((stretch.series.id, stretch.steps[0], stretch.steps[-1]) for stretch in part.stretches),
    ]:
        known = spans.get(series_id, (start, end))
        spans[series_id] = (min(start, known[0]), max(end, known[1]))
    for chunk in part.chunks:
        start, end = chunk.summary.first_step, chunk.summary.last_step
        if chunk.is_coarse:
            continue
        others = (span for series_id, span in spans.items() if series_id != chunk.series.id)
        if start < first or end > last or any(span[0] <= end and start <= span[1] for span in others):
            yield chunk


def _in_groups(parts: Sequence[_Parts], max_points: int) -> Iterator[list[_Parts]]:
    """Parts that are unfolded together: few statements for many short series, bounded memory for long ones."""
    group: list[_Parts] = []
    num_chunks = 0
    for part in parts:
        wanted = len(part.chunks) if _is_unfolded(part, max_points) else 0
        if group and num_chunks + wanted > CHUNKS_PER_STATEMENT:
            yield group
            group, num_chunks = [], 0
        group.append(part)
        num_chunks += wanted
    if group:
        yield group


async def _unfold_group(
    session: AsyncSession, group: Sequence[_Parts], max_points: int
) -> list[tuple[_Parts, list[Stretch]]]:
    """Each part with the points of its chunks, where it wants them."""
    unfolded: dict[tuple[str, str], list[Stretch]] = {}
    for fits in (True, False):
        wanted = [
            chunk
            for part in group
            if _is_unfolded(part, max_points) and (part.num_points <= max_points) == fits
            for chunk in part.chunks
        ]
        for stretch in await unfold(session, wanted, with_times=fits):
            unfolded.setdefault(stretch.series.of, []).append(stretch)
    return [(part, unfolded.get(part.of, [])) for part in group]


def _is_unfolded(part: _Parts, max_points: int) -> bool:
    if any(chunk.is_coarse for chunk in part.chunks):
        return False
    return part.num_points <= max_points or len(part.chunks) < max_points * _ENOUGH_BUCKETS


def _finish(part: _Parts, max_points: int, unfolded: Sequence[Stretch]) -> Series:
    attempts = _starts(part.chunks, part.stretches)
    stretches = sorted([*part.stretches, *unfolded], key=lambda stretch: stretch.steps[0])
    if part.num_points <= max_points:
        points = _join(stretches)
        return Series(name=part.of[1], num_points=part.num_points, points=points, envelope=[], attempts=attempts)
    pieces: list[Summary | Run] = [Run(steps=stretch.steps, values=stretch.values) for stretch in stretches]
    if not unfolded:
        pieces.extend(chunk.summary for chunk in part.chunks)
        pieces.sort(key=lambda piece: piece.first_step)
    envelope = build_envelope(pieces, max_points)
    return Series(name=part.of[1], num_points=part.num_points, points=None, envelope=envelope, attempts=attempts)


def _merge(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Disjoint stretches in order of steps; each step from its latest attempt.

    A merged one never reaches beyond one of `stretches`: whole chunks may stand between them.
    """
    if len({stretch.series.id for stretch in stretches}) <= 1:
        return sorted(stretches, key=lambda stretch: stretch.steps[0])
    owners: dict[int, tuple[Stretch, int]] = {}
    for stretch in sorted(stretches, key=lambda stretch: stretch.series.attempt_number):
        owners.update({step: (stretch, place) for place, step in enumerate(stretch.steps)})
    rising = [owners[step] for step in sorted(owners)]
    groups = (list(group) for _, group in groupby(rising, key=lambda owned: id(owned[0])))
    return [group[0][0].at([place for _, place in group]) for group in groups]


def _starts(chunks: Sequence[Chunk], merged: Sequence[Stretch]) -> list[AttemptStart]:
    starts: dict[int, int] = {}
    for number, step in [
        *((chunk.series.attempt_number, chunk.summary.first_step) for chunk in chunks),
        *((stretch.series.attempt_number, stretch.steps[0]) for stretch in merged),
    ]:
        starts[number] = min(step, starts.get(number, step))
    return [AttemptStart(number=number, first_step=starts[number]) for number in sorted(starts)]


def _join(stretches: Sequence[Stretch]) -> Points:
    return Points(
        steps=[step for stretch in stretches for step in stretch.steps],
        ts=[ts for stretch in stretches for ts in stretch.ts],
        values=[value for stretch in stretches for value in stretch.values],
    )
