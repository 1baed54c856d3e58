"""The audit log: every change, by whom, from what to what. Nothing here changes it."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.access import AdminReader, OverseenProject
from api.access_schemas import AuditPage
from api.access_shapes import to_audit_entry
from api.deps import SessionDep
from api.problems import problem_responses
from service import audit
from service.audit import AuditFilter
from service.storage.tables import Project

router = APIRouter(tags=["audit"])
Before = Annotated[int | None, Query(ge=1, lt=2**63, description="`next_before` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def _wanted(
    actor: Annotated[str | None, Query(max_length=100, description="Name of the user who made the change.")] = None,
    action: Annotated[
        str | None, Query(max_length=100, description="`experiment.cancel`, or the kind alone: `experiment`.")
    ] = None,
    target: Annotated[str | None, Query(max_length=200, description="Id or name of what was changed.")] = None,
    since: Annotated[datetime | None, Query(description="Not before this time.")] = None,
    until: Annotated[datetime | None, Query(description="Before this time.")] = None,
) -> AuditFilter:
    return AuditFilter(actor=actor, action=action, target=target, since=since, until=until)


Wanted = Annotated[AuditFilter, Depends(_wanted)]


@router.get("/audit", summary="Read the audit log, newest first", responses=problem_responses(401, 403, 422))
async def read_audit_log(
    _: AdminReader, session: SessionDep, wanted: Wanted, before: Before = None, limit: Limit = 100
) -> AuditPage:
    """Everything, for admins. `next_before` is null on the last page."""
    return await _page(session, None, wanted, before, limit)


@router.get(
    "/projects/{project}/audit",
    summary="Read the audit log of a project, newest first",
    responses=problem_responses(401, 403, 404, 422),
)
async def read_project_audit_log(
    project: OverseenProject, session: SessionDep, wanted: Wanted, before: Before = None, limit: Limit = 100
) -> AuditPage:
    """What concerns the project, for its maintainers."""
    return await _page(session, project, wanted, before, limit)


async def _page(
    session: SessionDep, project: Project | None, wanted: AuditFilter, before: int | None, limit: int
) -> AuditPage:
    rows = await audit.entries_before(session, project=project, wanted=wanted, before=before, limit=limit + 1)
    items = [to_audit_entry(entry, name) for entry, name in rows[:limit]]
    return AuditPage(items=items, next_before=items[-1].id if len(rows) > limit else None)
