"""The audit log: every change by people and their programs, written in the transaction that makes the change.

Only `record` writes, and nothing updates or deletes: the database refuses it (migration 0005).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Select, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.access import Actor, Principal
from service.storage.audit_tables import AuditEntry
from service.storage.json_values import storable_value
from service.storage.tables import Project, User


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was changed."""

    kind: str
    id: str
    name: str
    project_id: str | None
    """Whose maintainers may read of it; None: admins alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries a person wants to see; what is left out does not narrow the list."""

    actor: str | None = None
    """Name of the user."""
    action: str | None = None
    """`experiment.cancel`, or the kind alone: `experiment`."""
    target: str | None = None
    """Its id or its name."""
    since: datetime | None = None
    until: datetime | None = None


AUDIT_LOG = cast(Table, AuditEntry.__table__)
_INSERT = insert(AUDIT_LOG)


async def record(
    session: AsyncSession,
    by: Actor | None,
    verb: str,
    target: Target,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Notes that `by` (None: the service itself) did this to `target`, with its state before and after.

    `before` is None for what did not exist, `after` for what no longer does. Secrets never go in.
    """
    await session.execute(_INSERT, entry(by, verb, target, before=before, after=after))


def entry(
    by: Actor | None,
    verb: str,
    target: Target,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The row that `record` writes, for whoever writes it together with others."""
    return {
        **_who(by),
        "action": f"{target.kind}.{verb}",
        "target_kind": target.kind,
        "target_id": target.id,
        "target": target.name,
        "project_id": target.project_id,
        "before": None if before is None else storable_value(dict(before)),
        "after": None if after is None else storable_value(dict(after)),
    }


async def entries_before(
    session: AsyncSession, *, project: Project | None, wanted: AuditFilter, before: int | None, limit: int
) -> Sequence[tuple[AuditEntry, str | None]]:
    """Up to `limit` entries with ids below `before`, newest first, each with its project's name.

    With a `project`: only what concerns it.
    """
    statement = (
        select(AuditEntry, Project.name)
        .outerjoin(Project, Project.id == AuditEntry.project_id)
        .order_by(AuditEntry.id.desc())
        .limit(limit)
    )
    if project is not None:
        statement = statement.where(AuditEntry.project_id == project.id)
    if before is not None:
        statement = statement.where(AuditEntry.id < before)
    return [(entry, name) for entry, name in await session.execute(_narrowed(statement, wanted))]


def _narrowed(statement: Select[AuditEntry, str], wanted: AuditFilter) -> Select[AuditEntry, str]:
    if wanted.actor is not None:
        statement = statement.where(AuditEntry.actor == wanted.actor)
    if wanted.action is not None:
        kind_alone = "." not in wanted.action
        statement = statement.where((AuditEntry.target_kind if kind_alone else AuditEntry.action) == wanted.action)
    if wanted.target is not None:
        statement = statement.where((AuditEntry.target_id == wanted.target) | (AuditEntry.target == wanted.target))
    if wanted.since is not None:
        statement = statement.where(AuditEntry.ts >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(AuditEntry.ts < wanted.until)
    return statement


def _who(by: Actor | None) -> dict[str, Any]:
    match by:
        case None:
            return {"actor_kind": "system", "actor": "sedray"}
        case User():
            return {"actor_kind": by.kind, "actor_id": by.id, "actor": by.name}
        case Principal():
            return {
                "actor_kind": by.kind.value,
                "actor_id": by.id,
                "actor": by.name,
                "token_id": by.token_id,
                "request_id": by.request_id,
            }
