"""What an experiment's drivers and the scheduler printed."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import ReadableExperiment
from api.deps import SessionDep
from api.problems import problem_responses
from api.schemas import LogLineOut, LogPage
from service import log_store
from service.storage.tables import LogLineRow

router = APIRouter(prefix="/experiments/{experiment_id}/logs", tags=["logs"])


@router.get("", summary="Read log lines, oldest first", responses=problem_responses(401, 404, 422))
async def read_logs(
    experiment_id: ReadableExperiment,
    session: SessionDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only lines with a larger id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=2000)] = 1000,
    tail: Annotated[int | None, Query(ge=1, le=2000, description="Only the newest lines, instead of a page.")] = None,
) -> LogPage:
    """`next_after` is null when there is nothing more for now. Of a long log, the beginning and the end are kept."""
    if tail is not None:
        newest = await log_store.newest_lines(session, experiment_id, after=after, count=tail)
        return LogPage(items=[_to_line(line, number) for line, number in newest], next_after=None)
    rows = await log_store.lines_after(session, experiment_id, after, limit + 1)
    items = [_to_line(line, number) for line, number in rows[:limit]]
    return LogPage(items=items, next_after=items[-1].id if len(rows) > limit else None)


def _to_line(line: LogLineRow, attempt_number: int) -> LogLineOut:
    return LogLineOut(id=line.id, ts=line.ts, attempt_number=attempt_number, source=line.source, text=line.text)
