"""What a project, or a user within it, may have queued and stored: looked up at each submission, in one statement."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.status import ExperimentStatus
from service.errors import QuotaExceeded
from service.storage.scheduling_tables import OutputSize, Quota
from service.storage.tables import Experiment, Project

WHOLE_PROJECT = ""
"""In the place of a user's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionLimits:
    """The quotas that a submission falls under."""

    quotas: list[Quota]
    project_is_archived: bool

    @property
    def default_max_runtime_s(self) -> int | None:
        """The project's, for those who do not say how long they may run."""
        return next((quota.default_max_runtime_s for quota in self.quotas if quota.user_id == WHOLE_PROJECT), None)


async def submission_limits(session: AsyncSession, project_id: str, user_id: str) -> SubmissionLimits:
    """The project's and the user's, as far as there are any, of a project that exists."""
    rows = (await session.execute(_limits(), {"project_id": project_id, "user_id": user_id})).all()
    # Of the outer join: none where there is no quota.
    quotas = [row.Quota for row in rows if row.Quota is not None]
    return SubmissionLimits(quotas=quotas, project_is_archived=rows[0].archived_at is not None)


@cache
def _limits() -> Select[datetime | None, Quota]:
    """Asked with every submission, so it is put together once."""
    theirs = and_(Quota.project_id == Project.id, Quota.user_id.in_((WHOLE_PROJECT, bindparam("user_id"))))
    project = Project.id == bindparam("project_id")
    return select(Project.archived_at, Quota).outerjoin(Quota, theirs).where(project)


async def refuse_beyond(session: AsyncSession, limits: SubmissionLimits) -> None:
    """Raises QuotaExceeded if the experiment just queued, or what is stored already, is too much.

    Submissions that fall under the same limit pass one after the other, so that several at once cannot exceed it.
    """
    for quota in limits.quotas:
        if quota.max_queued is not None:
            await session.execute(select(Quota.project_id).where(*_same(quota)).with_for_update())
            await _refuse_queued(session, quota, quota.max_queued)
        if quota.max_storage_bytes is not None:
            await _refuse_stored(session, quota, quota.max_storage_bytes)


async def _refuse_queued(session: AsyncSession, quota: Quota, limit: int) -> None:
    queued = Experiment.status == ExperimentStatus.QUEUED.value
    number = await session.scalar(select(func.count()).select_from(Experiment).where(queued, *_of(quota))) or 0
    if number > limit:
        raise QuotaExceeded(
            f"{_whose(quota)} has {number - 1} of {limit} queued experiments allowed; cancel some, wait until some "
            "start, or ask for a larger quota",
            limit="max_queued",
            allowed=limit,
            present=number - 1,
        )


async def _refuse_stored(session: AsyncSession, quota: Quota, limit: int) -> None:
    stored = select(func.coalesce(func.sum(OutputSize.num_bytes), 0)).join(
        Experiment, Experiment.id == OutputSize.experiment_id
    )
    num_bytes = int(await session.scalar(stored.where(*_of(quota))) or 0)
    if num_bytes >= limit:
        raise QuotaExceeded(
            f"{_whose(quota)} stores {num_bytes / 1e9:.3g} of {limit / 1e9:.3g} GB allowed; delete outputs of old "
            "experiments, or ask for a larger quota",
            limit="max_storage_bytes",
            allowed=limit,
            present=num_bytes,
        )


def _of(quota: Quota) -> tuple[ColumnElement[bool], ...]:
    in_project = Experiment.project_id == quota.project_id
    return (in_project,) if quota.user_id == WHOLE_PROJECT else (in_project, Experiment.user_id == quota.user_id)


def _same(quota: Quota) -> tuple[ColumnElement[bool], ...]:
    return Quota.project_id == quota.project_id, Quota.user_id == quota.user_id


def _whose(quota: Quota) -> str:
    return "the project" if quota.user_id == WHOLE_PROJECT else "its user"
