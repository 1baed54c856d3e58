"""From rows to what the API answers about projects, members, users, tokens and changes."""

from sqlalchemy.ext.asyncio import AsyncSession

from api.access_schemas import (
    AuditEntryOut,
    Identity,
    IssuedToken,
    MemberOut,
    ProjectOut,
    TokenOut,
    UserOut,
)
from service.contract.access import TokenScope, UserKind
from service.storage.audit_tables import AuditEntry
from service.storage.tables import Project, User
from service.tenancy.members import Member
from service.tenancy.projects import ProjectView
from service.tenancy.tokens import TokenView


def to_project(view: ProjectView) -> ProjectOut:
    """A project with the caller's role."""
    project = view.project
    return ProjectOut(
        name=project.name,
        description=project.description,
        role=view.role,
        created_at=project.created_at,
        archived_at=project.archived_at,
    )


def to_member(member: Member) -> MemberOut:
    """A user in a project."""
    return MemberOut.model_validate(
        {
            "user": member.user.name,
            "kind": member.user.kind,
            "role": member.role,
            "source": member.source,
            "since": member.since,
        }
    )


async def read_user(session: AsyncSession, user: User) -> UserOut:
    """A user with the name of their home project."""
    home = await session.get(Project, user.home_project_id) if user.home_project_id else None
    identity = None
    if user.oidc_issuer is not None and user.oidc_subject is not None:
        identity = Identity(issuer=user.oidc_issuer, subject=user.oidc_subject)
    return UserOut(
        name=user.name,
        kind=UserKind(user.kind),
        is_admin=user.is_admin,
        project=home.name if home else None,
        identity=identity,
        created_at=user.created_at,
        disabled_at=user.disabled_at,
    )


def to_token(view: TokenView) -> TokenOut:
    """A token without its secret."""
    token = view.token
    return TokenOut.model_validate(
        {
            "id": token.id,
            "name": token.name,
            "user": view.user.name,
            "scope": TokenScope(token.scope),
            "project": view.project.name if view.project else None,
            "purpose": token.purpose,
            "created_at": token.created_at,
            "expires_at": token.expires_at,
            "revoked_at": token.revoked_at,
            "last_used_at": token.last_used_at,
        }
    )


def to_issued(view: TokenView, secret: str) -> IssuedToken:
    """A new token with its secret."""
    return IssuedToken(**dict(to_token(view)), secret=secret)


def to_audit_entry(entry: AuditEntry, project: str | None) -> AuditEntryOut:
    """One change, with the name of its project."""
    same = {name: getattr(entry, name) for name in AuditEntryOut.model_fields if name != "project"}
    return AuditEntryOut.model_validate({**same, "project": project})
