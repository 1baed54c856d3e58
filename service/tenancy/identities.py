"""From an identity that the issuer of log-ins vouches for to a user, and from its groups to roles."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.contract.access import ProjectRole
from service.errors import LoginFailed
from service.storage.membership_tables import Membership
from service.storage.tables import Project, User
from service.tenancy import members, users

logger = logging.getLogger(__name__)

GroupRoles = Mapping[str, Mapping[str, ProjectRole]]
"""Group of the issuer, to project, to role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Somebody, as the issuer knows them. Issuer and subject never change; the name and the groups may."""

    issuer: str
    subject: str
    name: str
    groups: frozenset[str]


async def log_in(session: AsyncSession, identity: Identity, group_roles: GroupRoles) -> User:
    """The user of this identity, made at the first log-in, with the roles that follow from the groups.

    A user of the same name who is not linked is not taken over. Raises LoginFailed for that, and for a disabled user.
    """
    user = await session.scalar(
        select(User)
        .where(User.oidc_issuer == identity.issuer, User.oidc_subject == identity.subject)
        .with_for_update(key_share=True)
    )
    if user is None:
        user = await _make(session, identity)
    if user.disabled_at is not None:
        raise LoginFailed(f"{user.name} is disabled; ask an admin")
    await _follow_groups(session, user, wanted_roles(identity.groups, group_roles))
    await audit.record(session, user, "log_in", users.target_of(user))
    return user


def wanted_roles(groups: frozenset[str], group_roles: GroupRoles) -> dict[str, ProjectRole]:
    """The highest role that the groups give, by the project's name."""
    roles: dict[str, ProjectRole] = {}
    for group in sorted(groups & set(group_roles)):
        for project, role in group_roles[group].items():
            if project not in roles or not roles[project].covers(role):
                roles[project] = role
    return roles


async def _make(session: AsyncSession, identity: Identity) -> User:
    name = re.sub(r"[^A-Za-z0-9._@+-]", "-", identity.name).lstrip("._@+-")[:100] or "somebody"
    if await users.find_user(session, name) is not None:
        raise LoginFailed(
            f"there is a user {name!r} who is not linked to this identity; an admin links them with: "
            f"sedray admin user change {name} --identity {identity.issuer} {identity.subject}"
        )
    await users.create(session, None, name)
    return await users.change(session, None, name, identity=(identity.issuer, identity.subject))


async def _follow_groups(session: AsyncSession, user: User, wanted: Mapping[str, ProjectRole]) -> None:
    """Roles that were set by hand stay as they are; those that came from groups follow them."""
    found = await session.execute(
        select(Project, Membership.source)
        .outerjoin(Membership, (Membership.project_id == Project.id) & (Membership.user_id == user.id))
        .where(Project.name.in_(wanted) | (Membership.source == "oidc"))
        .order_by(Project.name)
    )
    projects = {project.name: (project, source) for project, source in found}
    for name in sorted(set(wanted) - set(projects)):
        logger.warning("group maps to a project that does not exist", extra={"project": name})
    for name, (project, source) in projects.items():
        if source == "manual":
            continue
        if name in wanted:
            await members.set_role(session, None, project, user.name, wanted[name], source="oidc")
        else:
            await members.remove(session, None, project, user.name)
