"""Quotas and shares of projects and of their users: read, set, and what is used of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.access import Actor, Visible
from service.contract.status import ExperimentStatus
from service.storage.quotas import WHOLE_PROJECT
from service.storage.scheduling_tables import OutputSize, Quota
from service.storage.tables import Attempt, Experiment, Project, User


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaView:
    """A quota with the names that people know, and what is used of it."""

    quota: Quota
    project: str
    user: str | None
    """None for the project as a whole."""
    num_running: int
    num_queued: int
    num_cpus: float
    num_gpus: float
    num_bytes: int


async def list_quotas(session: AsyncSession, visible: Visible) -> list[QuotaView]:
    """Of visible projects: each project's own before those of its users."""
    statement = (
        select(Quota, Project.name, User.name)
        .join(Project, Project.id == Quota.project_id)
        .outerjoin(User, User.id == Quota.user_id)
        .where(visible.where(Quota.project_id))
        .order_by(Project.name, Quota.user_id != WHOLE_PROJECT, User.name)
        .execution_options(populate_existing=True)
    )
    rows = (await session.execute(statement)).all()
    return [await _view(session, quota, project, user) for quota, project, user in rows]


async def set_quota(
    session: AsyncSession, project: Project, whose: User | None, values: Mapping[str, Any], *, user: Actor
) -> QuotaView:
    """Writes the whole quota of the project, or of one of its users."""
    user_id = whose.id if whose else WHOLE_PROJECT
    found = await session.get(Quota, (project.id, user_id), populate_existing=True)
    before = {name: getattr(found, name) for name in values} if found else None
    row = {"project_id": project.id, "user_id": user_id, **values, "updated_by": user.name, "updated_at": func.now()}
    statement = insert(Quota).values(row)
    written = statement.on_conflict_do_update(index_elements=[Quota.project_id, Quota.user_id], set_=row)
    quota = (await session.scalars(written.returning(Quota).execution_options(populate_existing=True))).one()
    name = f"{project.name}/{whose.name}" if whose else project.name
    target = audit.Target(kind="quota", id=f"{project.id}/{user_id}", name=name, project_id=project.id)
    await audit.record(session, user, "set", target, before=before, after=dict(values))
    return await _view(session, quota, project.name, whose.name if whose else None)


async def _view(session: AsyncSession, quota: Quota, project: str, user: str | None) -> QuotaView:
    mine = [Experiment.project_id == quota.project_id]
    if quota.user_id != WHOLE_PROJECT:
        mine.append(Experiment.user_id == quota.user_id)
    queued = Experiment.status == ExperimentStatus.QUEUED.value
    held = (
        await session.execute(
            select(
                func.count(),
                func.coalesce(func.sum(Attempt.num_cpus), 0.0),
                func.coalesce(func.sum(Attempt.num_gpus), 0.0),
            )
            .select_from(Attempt)
            .join(Experiment, Experiment.id == Attempt.experiment_id)
            .where(Attempt.released_at.is_(None), *mine)
        )
    ).one()
    stored = (
        select(func.coalesce(func.sum(OutputSize.num_bytes), 0))
        .join(Experiment, Experiment.id == OutputSize.experiment_id)
        .where(*mine)
    )
    return QuotaView(
        quota=quota,
        project=project,
        user=user,
        num_running=held[0],
        num_queued=await session.scalar(select(func.count()).select_from(Experiment).where(queued, *mine)) or 0,
        num_cpus=held[1],
        num_gpus=held[2],
        num_bytes=int(await session.scalar(stored) or 0),
    )
