"""What an experiment's drivers, their actors and the scheduler printed."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from api.access import ReadableExperiment
from api.deps import LogReaderDep
from api.operation_schemas import LogSources
from api.problems import problem_responses
from api.schemas import LogLineOut, LogPage
from service.log_archive import ArchivedLine, LogFilter

router = APIRouter(prefix="/experiments/{experiment_id}/logs", tags=["logs"])
_PROBLEMS = problem_responses(401, 404, 422, 503)
_END = 2**63 - 1
_TEXT = "text/plain; charset=utf-8"


@router.get("", summary="Read log lines, oldest first", responses=_PROBLEMS)
async def read_logs(
    experiment_id: ReadableExperiment,
    reader: LogReaderDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only lines with a larger id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=2000)] = 1000,
    tail: Annotated[int | None, Query(ge=1, le=2000, description="Only the newest lines, instead of a page.")] = None,
    before: Annotated[
        int | None, Query(ge=1, lt=2**63, description="With `tail`: only lines with a smaller id.")
    ] = None,
    source: Annotated[str | None, Query(max_length=80, description="Only what this one wrote.")] = None,
    role: Annotated[
        str | None, Query(max_length=80, description="Only what actors of this name wrote, whatever their process.")
    ] = None,
    attempt: Annotated[int | None, Query(ge=1, lt=2**31, description="Only lines of this attempt.")] = None,
    search: Annotated[str | None, Query(min_length=1, max_length=200, description="A part of the line.")] = None,
) -> LogPage:
    """`next_after` is null when there is nothing more for now. A search may find nothing and still have to go on.

    With `tail` and `before` a reader goes backward, `next_before` after `next_before`.
    A line keeps its id when it moves from the database into the storage, so a reader goes on wherever it was.
    """
    wanted = LogFilter(source=source, role=role, attempt_number=attempt, search=search)
    if tail is not None:
        older = await reader.older(experiment_id, before=before or _END, count=tail, wanted=wanted)
        items = [_to_line(line) for line in older.lines if line.id > after]
        return LogPage(items=items, next_after=None, next_before=older.next_before)
    found = await reader.read(experiment_id, after=after, limit=limit, wanted=wanted)
    return LogPage(items=[_to_line(line) for line in found.lines], next_after=found.next_after)


@router.get("/sources", summary="List who has written lines", responses=problem_responses(401, 404))
async def list_log_sources(experiment_id: ReadableExperiment, reader: LogReaderDep) -> LogSources:
    """`driver`, `scheduler`, and actors by name and process id."""
    return LogSources(items=await reader.sources(experiment_id))


@router.get(
    "/download",
    summary="Download the whole log as text",
    response_class=StreamingResponse,
    responses=problem_responses(401, 404) | {200: {"content": {"text/plain": {}}}},
)
async def download_log(experiment_id: ReadableExperiment, reader: LogReaderDep) -> StreamingResponse:
    """Time, attempt, source and text of every line so far."""
    headers = {"Content-Disposition": f'attachment; filename="{experiment_id}.log"'}
    return StreamingResponse(_as_text(reader.whole(experiment_id)), media_type=_TEXT, headers=headers)


async def _as_text(parts: AsyncIterator[list[ArchivedLine]]) -> AsyncIterator[bytes]:
    async for lines in parts:
        shown = (f"{line.ts.isoformat()} {line.attempt_number} {line.source} {line.text}\n" for line in lines)
        yield "".join(shown).encode()


def _to_line(line: ArchivedLine) -> LogLineOut:
    return LogLineOut(id=line.id, ts=line.ts, attempt_number=line.attempt_number, source=line.source, text=line.text)
