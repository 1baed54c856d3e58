"""One log over database and storage, whatever moves between them."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from service import attempts, log_store
from service.contract.messages import LogLine
from service.contract.status import EndReason
from service.errors import StorageUnavailable
from service.log_archive import Keep, LogFilter, LogReader, ship_logs
from service.log_archive.reading import LogSlice
from service.storage.database import Sessions
from service.storage.log_tables import LogChunkRow
from service.storage.tables import Attempt, Experiment, LogLineRow
from tests.factories import NOW, make_attempt

pytestmark = pytest.mark.anyio
SMALL = Keep(newest_lines=10, chunk_lines=10)
ALL = LogFilter()


@pytest.fixture
def output_dir(tmp_path: Path) -> Callable[[str], str]:
    return lambda experiment_id: f"{tmp_path}/{experiment_id}"


@pytest.fixture
def reader(sessions: Sessions, output_dir: Callable[[str], str]) -> LogReader:
    return LogReader(sessions, output_dir)


async def write(sessions: Sessions, attempt: Attempt, start: int, end: int, source: str = "driver") -> None:
    async with sessions.begin() as session:
        lines = [LogLine(ts=NOW, source=source, text=f"line {n}  \x85") for n in range(start, end)]
        await log_store.append_lines(session, attempt, lines)


async def live_attempt(sessions: Sessions, num_lines: int = 0) -> Attempt:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
    await write(sessions, attempt, 0, num_lines)
    return attempt


async def end(sessions: Sessions, attempt: Attempt, *, ago: timedelta = timedelta(hours=1)) -> None:
    async with sessions.begin() as session:
        await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "no", {})
        await attempts.release(session, attempt, NOW)
        await session.execute(update(Experiment).values(ended_at=Experiment.ended_at - ago))


async def num_rows(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(LogLineRow)) or 0


def numbers(found: LogSlice) -> list[int]:
    return [int(line.text.split()[1]) for line in found.lines]


async def test_of_a_live_run_the_newest_lines_stay_and_a_reader_sees_no_difference(
    sessions: Sessions, reader: LogReader, output_dir: Callable[[str], str]
) -> None:
    attempt = await live_attempt(sessions, 57)
    before = await reader.read(attempt.experiment_id, after=0, limit=100, wanted=ALL)
    assert await ship_logs(sessions, output_dir, SMALL) == 4
    assert await num_rows(sessions) == 17
    assert await reader.read(attempt.experiment_id, after=0, limit=100, wanted=ALL) == before
    assert await ship_logs(sessions, output_dir, SMALL) == 0


async def test_pages_and_tails_go_across_files_and_rows(
    sessions: Sessions, reader: LogReader, output_dir: Callable[[str], str]
) -> None:
    attempt = await live_attempt(sessions, 57)
    await ship_logs(sessions, output_dir, SMALL)
    pages, after = [], 0
    while True:
        page = await reader.read(attempt.experiment_id, after=after, limit=7, wanted=ALL)
        pages += numbers(page)
        if page.next_after is None:
            break
        after = page.next_after
    assert pages == list(range(57))
    newest = await reader.newest(attempt.experiment_id, count=23, wanted=ALL)
    assert [int(line.text.split()[1]) for line in newest] == list(range(34, 57))


async def test_a_reader_that_follows_misses_nothing_while_lines_are_shipped(
    sessions: Sessions, reader: LogReader, output_dir: Callable[[str], str]
) -> None:
    attempt = await live_attempt(sessions)
    seen: list[int] = []
    after = 0
    for start in range(0, 90, 9):
        await write(sessions, attempt, start, start + 9)
        page = await reader.read(attempt.experiment_id, after=after, limit=5, wanted=ALL)
        seen, after = seen + numbers(page), page.lines[-1].id
        await ship_logs(sessions, output_dir, SMALL)
    rest = await reader.read(attempt.experiment_id, after=after, limit=100, wanted=ALL)
    assert seen + numbers(rest) == list(range(90))
    async with sessions() as session:
        assert await log_store.last_line_id(session, attempt.experiment_id) == rest.lines[-1].id


async def test_a_finished_run_leaves_the_database_once_people_have_looked(
    sessions: Sessions, reader: LogReader, output_dir: Callable[[str], str]
) -> None:
    attempt = await live_attempt(sessions, 25)
    await end(sessions, attempt, ago=timedelta(0))
    assert await ship_logs(sessions, output_dir, Keep(chunk_lines=10)) == 0
    async with sessions.begin() as session:
        await session.execute(update(Experiment).values(ended_at=Experiment.ended_at - timedelta(hours=1)))
    assert await ship_logs(sessions, output_dir, Keep(chunk_lines=10)) == 3
    assert await num_rows(sessions) == 0
    assert numbers(await reader.read(attempt.experiment_id, after=0, limit=100, wanted=ALL)) == list(range(25))
    async with sessions() as session:
        assert await log_store.last_line_id(session, attempt.experiment_id) > 0


async def test_lines_are_found_by_source_attempt_and_text_wherever_they_lie(
    sessions: Sessions, reader: LogReader, output_dir: Callable[[str], str]
) -> None:
    attempt = await live_attempt(sessions, 30)
    await write(sessions, attempt, 30, 40, source="Trainer:7")
    await ship_logs(sessions, output_dir, SMALL)
    await write(sessions, attempt, 40, 45, source="Trainer:7")
    found = await reader.read(attempt.experiment_id, after=0, limit=100, wanted=LogFilter(source="Trainer:7"))
    assert numbers(found) == list(range(30, 45))
    found = await reader.read(attempt.experiment_id, after=0, limit=100, wanted=LogFilter(search="LINE 1"))
    assert numbers(found) == [1, *range(10, 20)]
    found = await reader.read(attempt.experiment_id, after=0, limit=100, wanted=LogFilter(attempt_number=2))
    assert (numbers(found), found.next_after) == ([], None)
    assert await reader.sources(attempt.experiment_id) == ["Trainer:7", "driver"]
    newest = await reader.newest(attempt.experiment_id, count=3, wanted=LogFilter(search="line 1"))
    assert [line.text.split()[1] for line in newest] == ["17", "18", "19"]


async def test_a_long_search_comes_in_parts(
    sessions: Sessions, reader: LogReader, output_dir: Callable[[str], str]
) -> None:
    attempt = await live_attempt(sessions, 310)
    await ship_logs(sessions, output_dir, SMALL)
    found, after, parts = [], 0, 0
    while True:
        part = await reader.read(attempt.experiment_id, after=after, limit=100, wanted=LogFilter(search="line 309"))
        found, parts = found + numbers(part), parts + 1
        if part.next_after is None:
            break
        after = part.next_after
    assert (found, parts) == ([309], 2)


async def test_storage_that_fails_loses_nothing_and_says_so(
    sessions: Sessions, reader: LogReader, tmp_path: Path
) -> None:
    attempt = await live_attempt(sessions, 57)
    (tmp_path / "file").write_text("no folder")
    assert await ship_logs(sessions, lambda _: str(tmp_path / "file"), SMALL) == 0
    assert await num_rows(sessions) == 57
    await ship_logs(sessions, lambda experiment_id: f"{tmp_path}/{experiment_id}", SMALL)
    for file in (tmp_path / attempt.experiment_id / "logs").iterdir():
        file.unlink()
    with pytest.raises(StorageUnavailable):
        await reader.read(attempt.experiment_id, after=0, limit=100, wanted=ALL)
    assert len(await reader.newest(attempt.experiment_id, count=17, wanted=ALL)) == 17


async def test_a_shipper_that_died_before_its_transaction_is_repeated_by_the_next(
    sessions: Sessions, reader: LogReader, output_dir: Callable[[str], str]
) -> None:
    attempt = await live_attempt(sessions, 57)
    await ship_logs(sessions, output_dir, SMALL)
    before = await reader.read(attempt.experiment_id, after=0, limit=100, wanted=ALL)
    async with sessions.begin() as session:
        # As if the second of two at once were too late: its lines are gone, and its file is there already.
        chunks = list(await session.scalars(select(LogChunkRow).order_by(LogChunkRow.last_id)))
    assert [chunk.num_lines for chunk in chunks] == [10, 10, 10, 10]
    await ship_logs(sessions, output_dir, SMALL)
    assert await reader.read(attempt.experiment_id, after=0, limit=100, wanted=ALL) == before


async def test_storage_in_memory_serves_as_well(sessions: Sessions) -> None:
    attempt = await live_attempt(sessions, 57)
    place = f"memory://{attempt.experiment_id}"
    assert await ship_logs(sessions, lambda _: place, SMALL) == 4
    found = await LogReader(sessions, lambda _: place).read(attempt.experiment_id, after=0, limit=100, wanted=ALL)
    assert numbers(found) == list(range(57))
