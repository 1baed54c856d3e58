"""Projects: made by admins, looked after by their maintainers, archived instead of deleted."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.access import Actor, Principal
from service.contract.access import ProjectRole
from service.errors import NotAllowedNow
from service.storage.identifiers import new_id
from service.storage.tables import Project


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectView:
    """A project as one caller sees it."""

    project: Project
    role: ProjectRole


async def create(session: AsyncSession, by: Actor | None, name: str, description: str = "") -> Project:
    """A new project without members; raises NotAllowedNow if the name is taken."""
    row = {"id": new_id("project"), "name": name, "description": description}
    project: Project | None = await session.scalar(
        insert(Project).values(row).on_conflict_do_nothing().returning(Project)
    )
    if project is None:
        raise NotAllowedNow(f"there is a project {name!r} already; choose another name", name=name)
    await audit.record(session, by, "create", target_of(project), after=_state(project))
    return project


async def list_visible(session: AsyncSession, principal: Principal, *, archived: bool) -> list[ProjectView]:
    """The projects that the caller sees, by name; archived ones only if asked for."""
    statement = select(Project).where(principal.visible.where(Project.id)).order_by(Project.name)
    if not archived:
        statement = statement.where(Project.archived_at.is_(None))
    return [view_of(project, principal) for project in await session.scalars(statement)]


def view_of(project: Project, principal: Principal) -> ProjectView:
    """The project with the caller's role, which they must have."""
    role = principal.role_in(project.id)
    assert role is not None, "the project is visible"
    return ProjectView(project=project, role=role)


async def change(
    session: AsyncSession, by: Actor, project: Project, *, description: str | None = None, archived: bool | None = None
) -> Project:
    """Describes, archives or takes up again. What is queued in an archived project still runs."""
    current = await session.get_one(Project, project.id, with_for_update=True, populate_existing=True)
    before = _state(current)
    if description is not None:
        current.description = description
    if archived is not None and archived != (current.archived_at is not None):
        current.archived_at = (await session.scalar(select(func.now()))) if archived else None
    if _state(current) != before:
        await audit.record(session, by, "change", target_of(current), before=before, after=_state(current))
    return current


def target_of(project: Project) -> audit.Target:
    """The project as the audit log names it."""
    return audit.Target(kind="project", id=project.id, name=project.name, project_id=project.id)


def _state(project: Project) -> dict[str, Any]:
    return {"name": project.name, "description": project.description, "archived": project.archived_at is not None}
