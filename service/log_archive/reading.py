"""One log over rows and files, in the order of ids: forward from an offset, or backward from the end.

Rows are read before the list of files: what is shipped in between is then seen twice, never not at all, and told once.
A search looks through a bounded number of files at a time and says how far it came.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.log_archive.files import ArchivedLine, chunk_name, read_chunk
from service.storage.database import Sessions
from service.storage.log_tables import LogChunkRow
from service.storage.tables import Attempt, LogLineRow

_Rows = Select[int, datetime, int, str, str]
_CACHED_FILES = 32
"""Of one process; a file never changes once it is there."""
_FILES_PER_LOOK = 25
_END = 2**63 - 1
"""Behind every id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which lines a person wants to see; what is left out narrows nothing."""

    source: str | None = None
    role: str | None = None
    """Whoever is called so, whatever its process: `Trainer` stands for `Trainer:4711` and all others."""
    attempt_number: int | None = None
    search: str | None = None
    """A part of the line, in any case."""

    def takes(self, line: ArchivedLine) -> bool:
        """Whether the line is wanted."""
        return (
            (self.source is None or line.source == self.source)
            and (self.role is None or role_of(line.source) == self.role)
            and (self.attempt_number is None or line.attempt_number == self.attempt_number)
            and (self.search is None or self.search.lower() in line.text.lower())
        )

    def narrow(self, rows: _Rows) -> _Rows:
        """The same for rows."""
        if self.source is not None:
            rows = rows.where(LogLineRow.source == self.source)
        if self.role is not None:
            named = LogLineRow.source == self.role
            rows = rows.where(or_(named, LogLineRow.source.startswith(f"{self.role}:", autoescape=True)))
        if self.attempt_number is not None:
            rows = rows.where(Attempt.number == self.attempt_number)
        if self.search is not None:
            rows = rows.where(LogLineRow.text.icontains(self.search, autoescape=True))
        return rows

    def may_be_in(self, chunk: LogChunkRow) -> bool:
        """Whether a file can hold a wanted line."""
        right_source = self.source is None or self.source in chunk.sources
        right_role = self.role is None or self.role in map(role_of, chunk.sources)
        return (
            right_source
            and right_role
            and (self.attempt_number is None or self.attempt_number in chunk.attempt_numbers)
        )


def role_of(source: str) -> str:
    """The name of an actor without its process."""
    return source.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSlice:
    """Some lines, oldest first."""

    lines: list[ArchivedLine]
    next_after: int | None
    """Where to go on, if there may be more for now; None at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OlderSlice:
    """Some lines, oldest first, read backward."""

    lines: list[ArchivedLine]
    next_before: int | None
    """Where to go on, if there may be older ones; None at the beginning."""


class LogReader:
    """Reads the logs of experiments; holds no session while it waits for the storage."""

    def __init__(self, sessions: Sessions, output_dir: Callable[[str], str]) -> None:
        self._sessions = sessions
        self._output_dir = output_dir
        self._cache: OrderedDict[tuple[str, int], list[ArchivedLine]] = OrderedDict()

    async def read(self, experiment_id: str, *, after: int, limit: int, wanted: LogFilter) -> LogSlice:
        """Up to `limit` wanted lines with ids above `after`. Raises StorageUnavailable."""
        async with self._sessions() as session:
            rows = await _rows(session, experiment_id, wanted, after=after, limit=limit + 1)
            chunks = await _chunks_after(session, experiment_id, after)
        found: list[ArchivedLine] = []
        looked = 0
        for chunk in chunks:
            if len(found) > limit:
                break
            if not wanted.may_be_in(chunk):
                continue
            if looked == _FILES_PER_LOOK:
                return LogSlice(lines=found[:limit], next_after=_behind(found, limit, chunk.first_id - 1))
            looked += 1
            found += [line for line in await self._lines(chunk) if line.id > after and wanted.takes(line)]
        newest_shipped = chunks[-1].last_id if chunks else after
        found += [line for line in rows if line.id > newest_shipped]
        # Rows that were shipped meanwhile took the place of later ones.
        more = len(found) > limit or len(rows) > limit
        lines = found[:limit]
        return LogSlice(lines=lines, next_after=(lines[-1].id if lines else newest_shipped) if more else None)

    async def newest(self, experiment_id: str, *, count: int, wanted: LogFilter) -> list[ArchivedLine]:
        """The newest `count` wanted lines, oldest first; a search looks through the newest files alone."""
        return (await self.older(experiment_id, before=_END, count=count, wanted=wanted)).lines

    async def older(self, experiment_id: str, *, before: int, count: int, wanted: LogFilter) -> OlderSlice:
        """The newest `count` wanted lines with ids below `before`. Raises StorageUnavailable."""
        async with self._sessions() as session:
            rows = await _rows(session, experiment_id, wanted, before=before, newest=count + 1)
            oldest_row = await session.scalar(
                select(func.min(LogLineRow.id)).where(LogLineRow.experiment_id == experiment_id)
            )
            chunks = await _newest_chunks(session, experiment_id, before) if len(rows) <= count else []
        found, place = rows, 0
        while len(found) < count and place < min(len(chunks), _FILES_PER_LOOK):
            if wanted.may_be_in(chunks[place]):
                below = found[0].id if found else min(oldest_row or _END, before)
                lines = await self._lines(chunks[place])
                found = [line for line in lines if line.id < below and wanted.takes(line)] + found
            place += 1
        unread = chunks[place:]
        if len(found) > count or (len(found) == count and unread):
            return OlderSlice(lines=found[-count:], next_before=found[-count].id)
        return OlderSlice(lines=found, next_before=unread[0].last_id + 1 if unread else None)

    async def sources(self, experiment_id: str) -> list[str]:
        """Everybody who has written a line."""
        async with self._sessions() as session:
            of_rows = select(LogLineRow.source).where(LogLineRow.experiment_id == experiment_id).distinct()
            of_files = select(func.unnest(LogChunkRow.sources)).where(LogChunkRow.experiment_id == experiment_id)
            return sorted({*await session.scalars(of_rows), *await session.scalars(of_files.distinct())})

    async def whole(self, experiment_id: str) -> AsyncIterator[list[ArchivedLine]]:
        """All lines so far, some thousands at a time."""
        after: int | None = 0
        while after is not None:
            part = await self.read(experiment_id, after=after, limit=5_000, wanted=LogFilter())
            yield part.lines
            after = part.next_after

    async def _lines(self, chunk: LogChunkRow) -> list[ArchivedLine]:
        key = (chunk.experiment_id, chunk.last_id)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        lines = await read_chunk(self._output_dir(chunk.experiment_id), chunk_name(chunk.first_id, chunk.last_id))
        self._cache[key] = lines
        while len(self._cache) > _CACHED_FILES:
            self._cache.popitem(last=False)
        return lines


def _behind(found: Sequence[ArchivedLine], limit: int, looked_up_to: int) -> int:
    """Where a search that is not over goes on."""
    return found[limit - 1].id if len(found) >= limit else looked_up_to


async def _rows(
    session: AsyncSession,
    experiment_id: str,
    wanted: LogFilter,
    *,
    after: int = 0,
    before: int = _END,
    limit: int | None = None,
    newest: int | None = None,
) -> list[ArchivedLine]:
    rows = wanted.narrow(
        select(LogLineRow.id, LogLineRow.ts, Attempt.number, LogLineRow.source, LogLineRow.text)
        .join(Attempt, Attempt.id == LogLineRow.attempt_id)
        .where(LogLineRow.experiment_id == experiment_id, LogLineRow.id > after, LogLineRow.id < before)
    )
    if newest is not None:
        return _to_lines(await session.execute(rows.order_by(LogLineRow.id.desc()).limit(newest)))[::-1]
    return _to_lines(await session.execute(rows.order_by(LogLineRow.id).limit(limit)))


def _to_lines(rows: Iterable[Row[int, datetime, int, str, str]]) -> list[ArchivedLine]:
    return [
        ArchivedLine(id=line_id, ts=ts, attempt_number=number, source=source, text=line)
        for line_id, ts, number, source, line in rows
    ]


async def _chunks_after(session: AsyncSession, experiment_id: str, after: int) -> list[LogChunkRow]:
    rows = select(LogChunkRow).where(LogChunkRow.experiment_id == experiment_id, LogChunkRow.last_id > after)
    return list(await session.scalars(rows.order_by(LogChunkRow.last_id)))


async def _newest_chunks(session: AsyncSession, experiment_id: str, before: int) -> list[LogChunkRow]:
    """Those that are looked through at a time, and the one behind them."""
    rows = select(LogChunkRow).where(LogChunkRow.experiment_id == experiment_id, LogChunkRow.first_id < before)
    return list(await session.scalars(rows.order_by(LogChunkRow.last_id.desc()).limit(_FILES_PER_LOOK + 1)))
