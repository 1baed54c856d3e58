"""The webhooks of a project: made, changed and removed by its maintainers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.access import Actor
from service.errors import InvalidRequest, NotAllowedNow, NotFound
from service.storage.identifiers import new_id
from service.storage.tables import Project
from service.storage.webhook_outbox import add_delivery
from service.storage.webhook_tables import Webhook, WebhookDelivery
from service.webhooks.addresses import AddressRefused, parse_destination

MAX_PER_PROJECT = 20
TEST_EVENT = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookChange:
    """What is None stays."""

    name: str | None = None
    url: str | None = None
    events: list[str] | None = None
    is_active: bool | None = None


async def create(
    session: AsyncSession,
    by: Actor,
    project: Project,
    *,
    name: str,
    url: str,
    events: list[str],
    allowed_hosts: Collection[str],
) -> Webhook:
    """A new webhook. Raises InvalidRequest for a refused address; NotAllowedNow for a taken name or too many."""
    _check(url, allowed_hosts)
    await _lock(session, project)
    number = await session.scalar(select(func.count()).select_from(Webhook).where(Webhook.project_id == project.id))
    if (number or 0) >= MAX_PER_PROJECT:
        raise NotAllowedNow(f"project {project.name!r} has {number} webhooks, which is the limit; remove one first")
    row = {"id": new_id("wh"), "project_id": project.id, "name": name, "url": url, "events": sorted(set(events))}
    webhook: Webhook | None = await session.scalar(
        insert(Webhook).values(row).on_conflict_do_nothing().returning(Webhook)
    )
    if webhook is None:
        raise _taken(project, name)
    await audit.record(session, by, "create", _target(webhook), after=_state(webhook))
    return webhook


async def list_webhooks(session: AsyncSession, project: Project) -> Sequence[Webhook]:
    """All webhooks of the project, by name."""
    found = await session.scalars(select(Webhook).where(Webhook.project_id == project.id).order_by(Webhook.name))
    return found.all()


async def get(session: AsyncSession, project: Project, webhook_id: str, *, lock: bool = False) -> Webhook:
    """The webhook of this project; raises NotFound."""
    statement = select(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project.id)
    webhook = await session.scalar(statement.with_for_update() if lock else statement)
    if webhook is None:
        raise NotFound(f"project {project.name!r} has no webhook {webhook_id!r}; list them to find the id")
    return webhook


async def change(
    session: AsyncSession,
    by: Actor,
    project: Project,
    webhook_id: str,
    wanted: WebhookChange,
    *,
    allowed_hosts: Collection[str],
) -> Webhook:
    """Another name, address or filter; an inactive webhook gets no new messages. Raises as `create`, and NotFound."""
    await _lock(session, project)
    webhook = await get(session, project, webhook_id, lock=True)
    before = _state(webhook)
    if wanted.url is not None:
        _check(wanted.url, allowed_hosts)
        webhook.url = wanted.url
    if wanted.name is not None and wanted.name != webhook.name:
        if any(other.name == wanted.name for other in await list_webhooks(session, project)):
            raise _taken(project, wanted.name)
        webhook.name = wanted.name
    if wanted.events is not None:
        webhook.events = sorted(set(wanted.events))
    if wanted.is_active is not None:
        webhook.is_active = wanted.is_active
    if _state(webhook) != before:
        await audit.record(session, by, "change", _target(webhook), before=before, after=_state(webhook))
    return webhook


async def remove(session: AsyncSession, by: Actor, project: Project, webhook_id: str) -> Webhook:
    """Removes it with its deliveries; returns what it was. Raises NotFound."""
    webhook = await get(session, project, webhook_id, lock=True)
    await session.delete(webhook)
    await audit.record(session, by, "remove", _target(webhook), before=_state(webhook))
    return webhook


async def rotate_secret(session: AsyncSession, by: Actor, project: Project, webhook_id: str) -> Webhook:
    """From now on another secret signs; for a day the one before does too. Raises NotFound."""
    webhook = await get(session, project, webhook_id, lock=True)
    before = webhook.secret_version
    webhook.secret_version = before + 1
    webhook.secret_rotated_at = await session.scalar(select(func.now()))
    after = {"secret_version": webhook.secret_version}
    await audit.record(session, by, "rotate_secret", _target(webhook), before={"secret_version": before}, after=after)
    return webhook


async def send_test(session: AsyncSession, by: Actor, project: Project, webhook_id: str) -> WebhookDelivery:
    """Puts a message of type `test` into the outbox, also of an inactive webhook. Raises NotFound."""
    webhook = await get(session, project, webhook_id)
    now = await session.scalar(select(func.now()))
    data = {"timestamp": now.isoformat() if now else None, "project": project.name, "message": f"sent by {by.name}"}
    delivery = add_delivery(session, webhook, TEST_EVENT, data)
    await session.flush()
    await audit.record(session, by, "test", _target(webhook), after={"delivery": delivery.id})
    return delivery


async def _lock(session: AsyncSession, project: Project) -> None:
    """One after the other within a project, so that the number and the names hold."""
    await session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))


def _check(url: str, allowed_hosts: Collection[str]) -> None:
    try:
        parse_destination(url, allowed_hosts)
    except AddressRefused as error:
        raise InvalidRequest(f"url: {error}", errors=[{"field": "url", "problem": str(error)}]) from error


def _taken(project: Project, name: str) -> NotAllowedNow:
    return NotAllowedNow(f"project {project.name!r} has a webhook {name!r} already; choose another name", name=name)


def _target(webhook: Webhook) -> audit.Target:
    return audit.Target(kind="webhook", id=webhook.id, name=webhook.name, project_id=webhook.project_id)


def _state(webhook: Webhook) -> dict[str, Any]:
    return {
        "name": webhook.name,
        "url": webhook.url,
        "events": webhook.events,
        "active": webhook.is_active,
    }
