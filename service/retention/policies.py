"""Policies: what a project says, and the service's own word where it says nothing."""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.access import Actor
from service.settings import ServiceSettings
from service.storage.retention_tables import RetentionRow
from service.storage.tables import Project

Kind = Literal["logs", "rollouts", "token_views", "checkpoints"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Days after the end of an experiment; None: for ever."""

    logs: int | None = None
    rollouts: int | None = None
    token_views: int | None = None
    checkpoints: int | None = None

    @classmethod
    def of_service(cls, settings: ServiceSettings) -> "Policy":
        """What holds for projects that say nothing."""
        return cls(
            logs=settings.retain_logs_days,
            rollouts=settings.retain_rollouts_days,
            token_views=settings.retain_token_views_days,
            checkpoints=settings.retain_checkpoints_days,
        )


async def policies_of(session: AsyncSession, default: Policy) -> dict[str, tuple[Policy, bool]]:
    """By the project's name, its policy and whether that is its own."""
    own = {row.project_id: _of_row(row) for row in await session.scalars(select(RetentionRow))}
    projects = await session.execute(select(Project.id, Project.name).order_by(Project.name))
    return {name: (own.get(project_id, default), project_id in own) for project_id, name in projects}


async def set_policy(session: AsyncSession, by: Actor | None, project: Project, policy: Policy | None) -> None:
    """Gives a project its own policy, or takes it away."""
    row = await session.get(RetentionRow, project.id, populate_existing=True)
    before = asdict(_of_row(row)) if row is not None else None
    target = audit.Target(kind="retention", id=project.id, name=project.name, project_id=project.id)
    await audit.record(session, by, "set", target, before=before, after=asdict(policy) if policy else None)
    if policy is None:
        await session.execute(delete(RetentionRow).where(RetentionRow.project_id == project.id))
        return
    values = {f"{kind}_days": days for kind, days in asdict(policy).items()} | {"updated_at": func.now()}
    statement = insert(RetentionRow).values(project_id=project.id, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=[RetentionRow.project_id], set_=values))


def _of_row(row: RetentionRow) -> Policy:
    return Policy(**{kind: getattr(row, f"{kind}_days") for kind in KINDS})
