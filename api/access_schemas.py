"""Projects, members, users, tokens and the audit log as the API takes and answers them. The client reads these too."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.contract.access import PROJECT_NAME, USER_NAME, ProjectRole, TokenScope, UserKind
from service.contract.strict_model import WireModel


class NewProject(WireModel):
    """A project to be."""

    name: str = Field(pattern=PROJECT_NAME)
    description: str = Field(default="", max_length=2000)


class ProjectChange(WireModel):
    """What is left out stays."""

    description: str | None = Field(default=None, max_length=2000)
    archived: bool | None = None
    """An archived project takes no submission and no retry; what is queued in it still runs."""


class ProjectOut(WireModel):
    """A project as the caller sees it."""

    name: str
    description: str
    role: ProjectRole
    """The caller's; an admin's is `maintainer` everywhere."""
    created_at: datetime
    archived_at: datetime | None


class ProjectPage(WireModel):
    """All projects that the caller sees, by name."""

    items: list[ProjectOut]


class MemberRole(WireModel):
    """The role that somebody shall have."""

    role: ProjectRole


class NewServiceAccount(WireModel):
    """An account for programs, with a role in the project."""

    name: str = Field(pattern=USER_NAME)
    role: ProjectRole = ProjectRole.MEMBER


class MemberOut(WireModel):
    """A user in a project."""

    user: str
    kind: UserKind
    role: ProjectRole
    source: Literal["manual", "oidc"]
    """`oidc`: follows from the groups of the issuer of log-ins."""
    since: datetime


class MemberPage(WireModel):
    """All members, by name. Admins are none, unless they were added."""

    items: list[MemberOut]


class Identity(WireModel):
    """Somebody at the issuer of log-ins."""

    issuer: str = Field(min_length=1, max_length=500)
    subject: str = Field(min_length=1, max_length=500)


class NewUser(WireModel):
    """A person to be, member of nothing."""

    name: str = Field(pattern=USER_NAME)
    is_admin: bool = False


class UserChange(WireModel):
    """What is left out stays."""

    is_admin: bool | None = None
    disabled: bool | None = None
    """Disabling revokes all tokens."""
    identity: Identity | None = None
    """Who logs in as this user at the page."""


class UserOut(WireModel):
    """A person or a service account."""

    name: str
    kind: UserKind
    is_admin: bool
    project: str | None
    """Of a service account: whose maintainers look after it."""
    identity: Identity | None
    created_at: datetime
    disabled_at: datetime | None


class UserPage(WireModel):
    """Users, by name."""

    items: list[UserOut]
    next_after: str | None


class NewToken(WireModel):
    """A token to be."""

    name: str = Field(min_length=1, max_length=100, examples=["laptop"])
    scope: TokenScope = TokenScope.WRITE
    project: str | None = None
    """The only project that it opens; left out: all of its user's."""
    user: str | None = None
    """Left out: the caller. Maintainers name service accounts of their project, admins anybody."""
    expires_in_days: int | None = Field(default=90, ge=1, le=3650)
    """Null: valid until it is revoked."""


class TokenRotation(WireModel):
    """How a token is replaced."""

    overlap_s: int = Field(default=0, ge=0, le=7 * 86400)
    """For so long the old one is still accepted."""


class TokenOut(WireModel):
    """A token without its secret, which nobody can read again."""

    id: str
    name: str
    user: str
    scope: TokenScope
    project: str | None
    purpose: Literal["api", "page"]
    """`page`: a log-in at the page by the issuer of log-ins."""
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To within five minutes."""


class IssuedToken(TokenOut):
    """A new token with its secret: it is told this once."""

    secret: str


class TokenPage(WireModel):
    """Tokens of one user, newest first."""

    items: list[TokenOut]


class Me(WireModel):
    """Whom the token belongs to, and what it opens."""

    user: str
    kind: UserKind
    is_admin: bool
    token: str
    """Its name."""
    scope: TokenScope
    projects: dict[str, ProjectRole]
    """The caller's role by project, archived projects included."""


class AuditEntryOut(WireModel):
    """One change."""

    id: int
    ts: datetime
    actor: str
    actor_kind: Literal["person", "service", "system"]
    token_id: str | None
    action: str
    target_kind: str
    target_id: str
    target: str
    """The name that it had."""
    project: str | None
    before: dict[str, Any] | None
    """Null for what did not exist."""
    after: dict[str, Any] | None
    """Null for what no longer does."""
    request_id: str | None


class AuditPage(WireModel):
    """Changes, newest first."""

    items: list[AuditEntryOut]
    next_before: int | None
