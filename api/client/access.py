"""What the client says about projects, users, tokens and the audit log, a noun each.

client.projects.create("team")
client.projects.set_member("team", "ada", "member")
token = client.tokens.issue("ci", user="team-ci", scope="write", project="team")
"""

from datetime import datetime

from api.access_schemas import (
    AuditPage,
    IssuedToken,
    MemberOut,
    MemberPage,
    ProjectOut,
    ProjectPage,
    TokenOut,
    TokenPage,
    UserOut,
    UserPage,
)
from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, get, given, path, send


class Projects(Part[AnyTransport]):
    """Projects, their members and service accounts."""

    @call
    def list(self, *, archived: bool = False) -> Request[ProjectPage]:
        """The projects that you see, with your role in each."""
        return get(ProjectPage, path("projects"), {"archived": archived})

    @call
    def create(self, name: str, *, description: str = "") -> Request[ProjectOut]:
        """A new project without members; for admins."""
        body = {"name": name, "description": description}
        return send(ProjectOut, "POST", path("projects"), body)

    @call
    def show(self, name: str) -> Request[ProjectOut]:
        """One project."""
        return get(ProjectOut, path("projects", name))

    @call
    def change(self, name: str, *, description: str | None = None, archived: bool | None = None) -> Request[ProjectOut]:
        """Describes it, archives it or takes it up again; what is left out stays."""
        body = given(description=description, archived=archived)
        return send(ProjectOut, "PATCH", path("projects", name), body)

    @call
    def members(self, name: str) -> Request[MemberPage]:
        """Everybody with a role in it."""
        return get(MemberPage, path("projects", name, "members"))

    @call
    def set_member(self, name: str, user: str, role: str) -> Request[MemberOut]:
        """Adds a member or changes a role: viewer, member or maintainer."""
        return send(MemberOut, "PUT", path("projects", name, "members", user), {"role": role})

    @call
    def remove_member(self, name: str, user: str) -> Request[MemberOut]:
        """Takes the role away; answers what it was."""
        return send(MemberOut, "DELETE", path("projects", name, "members", user))

    @call
    def create_service_account(self, name: str, account: str, *, role: str = "member") -> Request[MemberOut]:
        """An account for programs; issue its tokens with `client.tokens.issue(..., user=account)`."""
        body = {"name": account, "role": role}
        return send(MemberOut, "POST", path("projects", name, "service-accounts"), body)

    @call
    def disable_service_account(self, name: str, account: str) -> Request[UserOut]:
        """Revokes all its tokens for good."""
        return send(UserOut, "DELETE", path("projects", name, "service-accounts", account))


class Users(Part[AnyTransport]):
    """Users; for admins."""

    @call
    def list(self, *, after: str | None = None, limit: int = 200) -> Request[UserPage]:
        """By name."""
        return get(UserPage, path("users"), given(after=after, limit=limit))

    @call
    def create(self, name: str, *, is_admin: bool = False) -> Request[UserOut]:
        """A person, member of nothing."""
        return send(UserOut, "POST", path("users"), {"name": name, "is_admin": is_admin})

    @call
    def change(
        self,
        name: str,
        *,
        is_admin: bool | None = None,
        disabled: bool | None = None,
        identity: tuple[str, str] | None = None,
    ) -> Request[UserOut]:
        """Admin or not, disabled or not, linked to an identity (issuer, subject); what is left out stays."""
        linked = {"issuer": identity[0], "subject": identity[1]} if identity else None
        body = given(is_admin=is_admin, disabled=disabled, identity=linked)
        return send(UserOut, "PATCH", path("users", name), body)


class Tokens(Part[AnyTransport]):
    """API tokens: your own, those of service accounts that you look after, as an admin anybody's."""

    @call
    def list(self, *, user: str | None = None, ended: bool = False) -> Request[TokenPage]:
        """Without secrets, newest first."""
        return get(TokenPage, path("tokens"), given(user=user, ended=ended))

    @call
    def issue(
        self,
        name: str,
        *,
        scope: str = "write",
        project: str | None = None,
        user: str | None = None,
        expires_in_days: int | None = 90,
    ) -> Request[IssuedToken]:
        """A new token; its `secret` is told this once. `expires_in_days=None`: valid until it is revoked."""
        body = {"name": name, "scope": scope, "project": project, "user": user, "expires_in_days": expires_in_days}
        return send(IssuedToken, "POST", path("tokens"), body)

    @call
    def revoke(self, token_id: str) -> Request[TokenOut]:
        """Useless from now on."""
        return send(TokenOut, "DELETE", path("tokens", token_id))

    @call
    def rotate(self, token_id: str, *, overlap_s: int = 0) -> Request[IssuedToken]:
        """A successor; the old one is accepted for another `overlap_s` seconds."""
        body = {"overlap_s": overlap_s}
        return send(IssuedToken, "POST", path("tokens", token_id, "rotate"), body)


class AuditLog(Part[AnyTransport]):
    """Every change."""

    @call
    def list(
        self,
        *,
        project: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Request[AuditPage]:
        """Newest first: for admins of everything, for maintainers of their `project`.

        `action` is `experiment.cancel`, or the kind alone.
        """
        times = {name: time.isoformat() for name, time in (("since", since), ("until", until)) if time is not None}
        query = given(actor=actor, action=action, target=target, before=before, limit=limit)
        where = path("audit") if project is None else path("projects", project, "audit")
        return get(AuditPage, where, {**query, **times})
