"""A study as people see it: what stands in its rows, with the experiments' statuses as they are now."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from service.access import EVERYTHING, Visible, no_study
from service.contract.status import ExperimentStatus
from service.contract.studies import StudySpec
from service.contract.study_changes import StudyState
from service.storage.study_tables import Study, StudyAmendment, StudyRun
from service.storage.tables import Experiment, Project, User
from service.studies.amending import current_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyView:
    """A study with the names that people know, and its runs counted."""

    study: Study
    project: str
    user: str
    num_by_status: dict[ExperimentStatus, int] = field(default_factory=dict)
    num_excluded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run with its experiment as it is now."""

    run: StudyRun
    status: ExperimentStatus
    end_reason: str | None
    message: str
    waiting_reason: str | None
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFilter:
    """Which studies a person wants to see; what is left out does not narrow the list."""

    state: StudyState | None = None
    project: str | None = None
    name: str | None = None
    """A part of the name, in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPageStart:
    """The last row of the page before, in the order newest first."""

    created_at: datetime
    id: str


async def view(session: AsyncSession, study_id: str) -> StudyView:
    """Raises NotFound."""
    found = await _views(session, visible=EVERYTHING, wanted=StudyFilter(), limit=1, study_id=study_id)
    if not found:
        raise no_study(study_id)
    return found[0]


async def list_page(
    session: AsyncSession, *, visible: Visible, wanted: StudyFilter, limit: int, start: StudyPageStart | None
) -> tuple[list[StudyView], StudyPageStart | None]:
    """Up to `limit` studies after `start`, newest first, and where the next page starts, if there is one."""
    found = await _views(session, visible=visible, wanted=wanted, limit=limit + 1, start=start)
    if len(found) <= limit:
        return found, None
    last = found[limit - 1].study
    return found[:limit], StudyPageStart(created_at=last.created_at, id=last.id)


async def amendments(session: AsyncSession, study_id: str) -> Sequence[StudyAmendment]:
    """In their order."""
    statement = select(StudyAmendment).where(StudyAmendment.study_id == study_id).order_by(StudyAmendment.number)
    return (await session.scalars(statement.execution_options(populate_existing=True))).all()


async def spec_and_amendments(session: AsyncSession, study: Study) -> tuple[StudySpec, Sequence[StudyAmendment]]:
    """The study as it stands, and the amendments that made it so."""
    changes = await amendments(session, study.id)
    return current_spec(study.spec, [one.change for one in changes]), changes


async def runs(session: AsyncSession, study_id: str) -> list[RunView]:
    """All of them, in the order in which they were queued."""
    rows = await session.execute(
        select(
            StudyRun,
            Experiment.status,
            Experiment.end_reason,
            Experiment.message,
            Experiment.waiting_reason,
            Experiment.started_at,
            Experiment.ended_at,
        )
        .join(Experiment, Experiment.id == StudyRun.experiment_id)
        .where(StudyRun.study_id == study_id)
        .order_by(StudyRun.position)
        .execution_options(populate_existing=True)
    )
    return [
        RunView(
            run=row.StudyRun,
            status=ExperimentStatus(row.status),
            end_reason=row.end_reason,
            message=row.message,
            waiting_reason=row.waiting_reason,
            started_at=row.started_at,
            ended_at=row.ended_at,
        )
        for row in rows
    ]


async def _views(
    session: AsyncSession,
    *,
    visible: Visible,
    wanted: StudyFilter,
    limit: int,
    start: StudyPageStart | None = None,
    study_id: str | None = None,
) -> list[StudyView]:
    statement = (
        select(Study, Project.name, User.name)
        .join(Project, Project.id == Study.project_id)
        .join(User, User.id == Study.user_id)
        .where(visible.where(Study.project_id))
        .order_by(Study.created_at.desc(), Study.id.desc())
        .limit(limit)
        .execution_options(populate_existing=True)
    )
    if study_id is not None:
        statement = statement.where(Study.id == study_id)
    if wanted.state is not None:
        statement = statement.where(Study.state == wanted.state.value)
    if wanted.project is not None:
        statement = statement.where(Project.name == wanted.project)
    if wanted.name is not None:
        statement = statement.where(Study.name.icontains(wanted.name, autoescape=True))
    if start is not None:
        statement = statement.where(tuple_(Study.created_at, Study.id) < tuple_(start.created_at, start.id))
    rows = (await session.execute(statement)).all()
    counts = await _counts(session, [study.id for study, _, _ in rows])
    return [
        StudyView(
            study=study,
            project=project,
            user=user,
            num_by_status={status: number for status, (number, _) in counts.get(study.id, {}).items()},
            num_excluded=sum(excluded for _, excluded in counts.get(study.id, {}).values()),
        )
        for study, project, user in rows
    ]


async def _counts(
    session: AsyncSession, study_ids: Sequence[str]
) -> dict[str, dict[ExperimentStatus, tuple[int, int]]]:
    """By study and status: runs, and how many of them are excluded."""
    rows = await session.execute(
        select(StudyRun.study_id, Experiment.status, func.count(), func.count(StudyRun.excluded_at))
        .join(Experiment, Experiment.id == StudyRun.experiment_id)
        .where(StudyRun.study_id.in_(study_ids))
        .group_by(StudyRun.study_id, Experiment.status)
    )
    found: dict[str, dict[ExperimentStatus, tuple[int, int]]] = {}
    for study_id, status, number, excluded in rows:
        found.setdefault(study_id, {})[ExperimentStatus(status)] = (number, excluded)
    return found
