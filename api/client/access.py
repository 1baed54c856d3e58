"""What `SedrayClient` says about projects, users, tokens, webhooks and the audit log, a noun each.

client.projects.create("team")
client.projects.set_member("team", "ada", "member")
token = client.tokens.issue("ci", user="team-ci", scope="write", project="team")
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

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
from api.webhook_schemas import DeliveryOut, DeliveryPage, WebhookOut, WebhookPage, WebhookWithSecret

Model = TypeVar("Model", bound=BaseModel)


class Call(Protocol):
    """One request of the client: the answer as a model, or its exception."""

    def __call__(
        self,
        model: type[Model],
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        repeat: bool = True,
    ) -> Model:
        """`repeat=False` for what may not be done twice: it is not sent again when no answer came."""
        ...


class Projects:
    """Projects, their members and service accounts."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def list(self, *, archived: bool = False) -> ProjectPage:
        """The projects that you see, with your role in each."""
        return self._call(ProjectPage, "GET", "/projects", params={"archived": archived})

    def create(self, name: str, *, description: str = "") -> ProjectOut:
        """A new project without members; for admins."""
        body = {"name": name, "description": description}
        return self._call(ProjectOut, "POST", "/projects", json=body, repeat=False)

    def show(self, name: str) -> ProjectOut:
        """One project."""
        return self._call(ProjectOut, "GET", _path("projects", name))

    def change(self, name: str, *, description: str | None = None, archived: bool | None = None) -> ProjectOut:
        """Describes it, archives it or takes it up again; what is left out stays."""
        body = _given(description=description, archived=archived)
        return self._call(ProjectOut, "PATCH", _path("projects", name), json=body)

    def members(self, name: str) -> MemberPage:
        """Everybody with a role in it."""
        return self._call(MemberPage, "GET", _path("projects", name, "members"))

    def set_member(self, name: str, user: str, role: str) -> MemberOut:
        """Adds a member or changes a role: viewer, member or maintainer."""
        return self._call(MemberOut, "PUT", _path("projects", name, "members", user), json={"role": role})

    def remove_member(self, name: str, user: str) -> MemberOut:
        """Takes the role away; answers what it was."""
        return self._call(MemberOut, "DELETE", _path("projects", name, "members", user), repeat=False)

    def create_service_account(self, name: str, account: str, *, role: str = "member") -> MemberOut:
        """An account for programs; issue its tokens with `client.tokens.issue(..., user=account)`."""
        body = {"name": account, "role": role}
        return self._call(MemberOut, "POST", _path("projects", name, "service-accounts"), json=body, repeat=False)

    def disable_service_account(self, name: str, account: str) -> UserOut:
        """Revokes all its tokens for good."""
        return self._call(UserOut, "DELETE", _path("projects", name, "service-accounts", account))


class Users:
    """Users; for admins."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def list(self, *, after: str | None = None, limit: int = 200) -> UserPage:
        """By name."""
        return self._call(UserPage, "GET", "/users", params=_given(after=after, limit=limit))

    def create(self, name: str, *, is_admin: bool = False) -> UserOut:
        """A person, member of nothing."""
        return self._call(UserOut, "POST", "/users", json={"name": name, "is_admin": is_admin}, repeat=False)

    def change(
        self,
        name: str,
        *,
        is_admin: bool | None = None,
        disabled: bool | None = None,
        identity: tuple[str, str] | None = None,
    ) -> UserOut:
        """Admin or not, disabled or not, linked to an identity (issuer, subject); what is left out stays."""
        linked = {"issuer": identity[0], "subject": identity[1]} if identity else None
        body = _given(is_admin=is_admin, disabled=disabled, identity=linked)
        return self._call(UserOut, "PATCH", _path("users", name), json=body)


class Tokens:
    """API tokens: your own, those of service accounts that you look after, as an admin anybody's."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def list(self, *, user: str | None = None, ended: bool = False) -> TokenPage:
        """Without secrets, newest first."""
        return self._call(TokenPage, "GET", "/tokens", params=_given(user=user, ended=ended))

    def issue(
        self,
        name: str,
        *,
        scope: str = "write",
        project: str | None = None,
        user: str | None = None,
        expires_in_days: int | None = 90,
    ) -> IssuedToken:
        """A new token; its `secret` is told this once. `expires_in_days=None`: valid until it is revoked."""
        body = {"name": name, "scope": scope, "project": project, "user": user, "expires_in_days": expires_in_days}
        return self._call(IssuedToken, "POST", "/tokens", json=body, repeat=False)

    def revoke(self, token_id: str) -> TokenOut:
        """Useless from now on."""
        return self._call(TokenOut, "DELETE", _path("tokens", token_id))

    def rotate(self, token_id: str, *, overlap_s: int = 0) -> IssuedToken:
        """A successor; the old one is accepted for another `overlap_s` seconds."""
        body = {"overlap_s": overlap_s}
        return self._call(IssuedToken, "POST", _path("tokens", token_id, "rotate"), json=body, repeat=False)


class Webhooks:
    """A project's webhooks and what they were sent."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def list(self, project: str) -> WebhookPage:
        """By name, without secrets."""
        return self._call(WebhookPage, "GET", _path("projects", project, "webhooks"))

    def create(self, project: str, name: str, url: str, *, events: Sequence[str] = ()) -> WebhookWithSecret:
        """A new webhook; its `secret` is told this once. No `events`: all of them."""
        body = {"name": name, "url": url, "events": list(events)}
        return self._call(WebhookWithSecret, "POST", _path("projects", project, "webhooks"), json=body, repeat=False)

    def change(
        self,
        project: str,
        webhook_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        events: Sequence[str] | None = None,
        is_active: bool | None = None,
    ) -> WebhookOut:
        """What is left out stays."""
        listed = None if events is None else [*events]
        body = _given(name=name, url=url, events=listed, is_active=is_active)
        return self._call(WebhookOut, "PATCH", _path("projects", project, "webhooks", webhook_id), json=body)

    def remove(self, project: str, webhook_id: str) -> WebhookOut:
        """With its deliveries; answers what it was."""
        return self._call(WebhookOut, "DELETE", _path("projects", project, "webhooks", webhook_id), repeat=False)

    def rotate_secret(self, project: str, webhook_id: str) -> WebhookWithSecret:
        """Another secret; for a day messages carry both signatures."""
        path = _path("projects", project, "webhooks", webhook_id, "rotate-secret")
        return self._call(WebhookWithSecret, "POST", path, repeat=False)

    def test(self, project: str, webhook_id: str) -> DeliveryOut:
        """Sends a message of type `test`."""
        path = _path("projects", project, "webhooks", webhook_id, "test")
        return self._call(DeliveryOut, "POST", path, repeat=False)

    def deliveries(
        self, project: str, webhook_id: str, *, status: str | None = None, before: str | None = None, limit: int = 50
    ) -> DeliveryPage:
        """What was sent, newest first."""
        query = _given(status=status, before=before, limit=limit)
        return self._call(
            DeliveryPage, "GET", _path("projects", project, "webhooks", webhook_id, "deliveries"), params=query
        )

    def redeliver(self, project: str, webhook_id: str, delivery_id: str) -> DeliveryOut:
        """Sends a message again, with the same id."""
        path = _path("projects", project, "webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
        return self._call(DeliveryOut, "POST", path, repeat=False)


class AuditLog:
    """Every change."""

    def __init__(self, call: Call) -> None:
        self._call = call

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
    ) -> AuditPage:
        """Newest first: for admins of everything, for maintainers of their `project`.

        `action` is `experiment.cancel`, or the kind alone.
        """
        times = {name: time.isoformat() for name, time in (("since", since), ("until", until)) if time is not None}
        query = _given(actor=actor, action=action, target=target, before=before, limit=limit)
        path = "/audit" if project is None else _path("projects", project, "audit")
        return self._call(AuditPage, "GET", path, params={**query, **times})


def _path(*parts: str) -> str:
    """A path whose parts may hold anything."""
    return "".join(f"/{quote(part, safe='@+')}" for part in parts)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
