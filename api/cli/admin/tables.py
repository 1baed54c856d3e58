"""What the commands of `sedray admin` print: one row a thing."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.access_schemas import AuditEntryOut, Me, MemberOut, ProjectOut, TokenOut, UserOut
from api.webhook_schemas import DeliveryOut, WebhookOut


def me_view(me: Me) -> RenderableType:
    """Whose token this is and what it opens."""
    kind = "admin" if me.is_admin else me.kind.value
    head = Text(f"{me.user} ({kind}), token {me.token} of scope {me.scope.value}")
    return Group(head, _table(("PROJECT", "ROLE"), ((name, role.value) for name, role in me.projects.items())))


def projects_table(items: Sequence[ProjectOut]) -> RenderableType:
    """Projects with the caller's role."""
    rows = ((item.name, item.role.value, _day(item.archived_at), item.description) for item in items)
    return _table(("PROJECT", "YOUR ROLE", "ARCHIVED", "DESCRIPTION"), rows)


def members_table(items: Sequence[MemberOut]) -> RenderableType:
    """Who has which role."""
    rows = ((item.user, item.role.value, item.kind.value, item.source, _day(item.since)) for item in items)
    return _table(("USER", "ROLE", "KIND", "SOURCE", "SINCE"), rows)


def users_table(items: Sequence[UserOut]) -> RenderableType:
    """Users; of a service account, its project."""
    rows = (
        (
            item.name,
            "admin" if item.is_admin else item.kind.value,
            item.project or "–",
            item.identity.subject if item.identity else "–",
            _day(item.disabled_at),
        )
        for item in items
    )
    return _table(("USER", "KIND", "PROJECT", "IDENTITY", "DISABLED"), rows)


def tokens_table(items: Sequence[TokenOut]) -> RenderableType:
    """Tokens without their secrets."""
    rows = (
        (
            item.id,
            item.name,
            item.scope.value,
            item.project or "all",
            "revoked" if item.revoked_at else _day(item.expires_at, never="never"),
            _day(item.last_used_at, never="never"),
        )
        for item in items
    )
    return _table(("ID", "NAME", "SCOPE", "PROJECT", "EXPIRES", "LAST USED"), rows)


def webhooks_table(items: Sequence[WebhookOut]) -> RenderableType:
    """Webhooks with what they hear of."""
    rows = (
        (item.id, item.name, "yes" if item.is_active else "no", ", ".join(item.events) or "all", item.url)
        for item in items
    )
    return _table(("ID", "NAME", "ACTIVE", "EVENTS", "URL"), rows)


def deliveries_table(items: Sequence[DeliveryOut]) -> RenderableType:
    """What was sent and what came back."""
    rows = (
        (
            item.id,
            item.event,
            item.status,
            str(item.num_attempts),
            str(item.last_status or "–"),
            item.last_error or "",
            _time(item.created_at),
        )
        for item in items
    )
    return _table(("ID", "EVENT", "STATUS", "TRIES", "HTTP", "ERROR", "CREATED"), rows)


def audit_table(items: Sequence[AuditEntryOut]) -> RenderableType:
    """Who did what, when; before and after stand in the JSON."""
    rows = ((_time(item.ts), item.actor, item.action, item.target, item.project or "–") for item in items)
    return _table(("TIME", "BY", "ACTION", "TARGET", "PROJECT"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _day(time: datetime | None, *, never: str = "–") -> str:
    return time.strftime("%Y-%m-%d") if time else never


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
