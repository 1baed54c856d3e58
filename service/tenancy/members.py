"""Members of a project and their roles."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Select, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.access import Actor
from service.contract.access import ProjectRole, UserKind
from service.errors import NotAllowedNow, NotFound
from service.storage.membership_tables import Membership
from service.storage.tables import Project, User
from service.tenancy import users

Source = Literal["manual", "oidc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user in a project."""

    user: User
    role: ProjectRole
    source: str
    since: datetime


async def list_members(session: AsyncSession, project: Project) -> list[Member]:
    """Everybody with a role in the project, by name. Admins, who may do everything everywhere, are not among them."""
    found = await session.execute(_select().where(Membership.project_id == project.id).order_by(User.name))
    return [_member(user, membership) for user, membership in found]


async def set_role(
    session: AsyncSession,
    by: Actor | None,
    project: Project,
    name: str,
    role: ProjectRole,
    *,
    source: Source = "manual",
) -> Member:
    """Makes the user of this name a member, or changes their role. Raises NotFound; NotAllowedNow if disabled."""
    user = await users.get_user(session, name)
    if user.disabled_at is not None:
        raise NotAllowedNow(f"{name} is disabled; an admin enables them with: sedray admin user enable {name}")
    before = _state(await _find(session, project, user))
    values = {"role": role.value, "source": source}
    row = insert(Membership).values(user_id=user.id, project_id=project.id, **values)
    await session.execute(row.on_conflict_do_update(index_elements=["user_id", "project_id"], set_=values))
    after = {"role": role.value, "source": source}
    if before != after:
        await audit.record(session, by, "set", target_of(project, user), before=before, after=after)
    member = await _find(session, project, user)
    assert member is not None, "written above"
    return member


async def remove(session: AsyncSession, by: Actor | None, project: Project, name: str) -> Member:
    """Takes the role away; returns what it was. Raises NotFound for somebody who has none here."""
    user = await users.find_user(session, name)
    member = await _find(session, project, user) if user is not None else None
    if user is None or member is None:
        raise NotFound(f"{name!r} is no member of project {project.name!r}; list the members to find the name")
    await session.execute(delete(Membership).where(Membership.user_id == user.id, Membership.project_id == project.id))
    await audit.record(session, by, "remove", target_of(project, user), before=_state(member))
    return member


async def add_service_account(
    session: AsyncSession, by: Actor, project: Project, name: str, role: ProjectRole
) -> Member:
    """A new service account of the project, with a role in it. Raises NotAllowedNow if the name is taken."""
    await users.create_service_account(session, by, project, name)
    return await set_role(session, by, project, name, role)


async def disable_service_account(session: AsyncSession, by: Actor, project: Project, name: str) -> User:
    """Disables a service account of this project and revokes its tokens. Raises NotFound."""
    user = await users.find_user(session, name)
    if user is None or user.kind != UserKind.SERVICE.value or user.home_project_id != project.id:
        raise NotFound(f"project {project.name!r} has no service account {name!r}; list its members to find the name")
    return await users.change(session, by, name, disabled=True)


def target_of(project: Project, user: User) -> audit.Target:
    """A membership as the audit log names it."""
    return audit.Target(kind="member", id=user.id, name=user.name, project_id=project.id)


def _select() -> Select[User, Membership]:
    joined = select(User, Membership).join(Membership, Membership.user_id == User.id)
    return joined.execution_options(populate_existing=True)


async def _find(session: AsyncSession, project: Project, user: User) -> Member | None:
    found = await session.execute(_select().where(Membership.project_id == project.id, User.id == user.id))
    row = found.one_or_none()
    return _member(*row) if row is not None else None


def _state(member: Member | None) -> dict[str, Any] | None:
    return None if member is None else {"role": member.role.value, "source": member.source}


def _member(user: User, membership: Membership) -> Member:
    return Member(user=user, role=ProjectRole(membership.role), source=membership.source, since=membership.created_at)
