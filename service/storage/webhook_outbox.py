"""The outbox: what webhooks will be told stands in the transaction that makes it true, or nowhere.

Written by `transitions` alone, beside the event of a new status; sent by `service.webhooks`.
"""

import json
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.storage.identifiers import new_id
from service.storage.tables import Experiment, Project, User
from service.storage.webhook_tables import Webhook, WebhookDelivery

EVENT_PREFIX = "experiment."


async def enqueue_status(
    session: AsyncSession, experiment_id: str, status: str, message: str, *, sequence: int, at: datetime
) -> None:
    """One delivery for each active webhook of the project that wants to hear of this new status."""
    name = EVENT_PREFIX + status
    wanting = await session.scalars(
        select(Webhook)
        .join(Experiment, Experiment.project_id == Webhook.project_id)
        .where(
            Experiment.id == experiment_id,
            Webhook.is_active,
            or_(func.cardinality(Webhook.events) == 0, Webhook.events.contains([name])),
        )
    )
    webhooks = wanting.all()
    if not webhooks:
        return
    data = await _experiment_data(session, experiment_id)
    data |= {"timestamp": _iso(at), "message": message}
    for webhook in webhooks:
        add_delivery(session, webhook, name, data, sequence=sequence)
    await session.flush()


def add_delivery(
    session: AsyncSession, webhook: Webhook, event: str, data: dict[str, Any], *, sequence: int | None = None
) -> WebhookDelivery:
    """Puts one message into the outbox. Its id stays the same over all tries: receivers know repetitions by it."""
    identifier = new_id("whd")
    body = json.dumps({"id": identifier, "type": event, "sequence": sequence, **data}, ensure_ascii=True)
    delivery = WebhookDelivery(id=identifier, webhook_id=webhook.id, event=event, body=body)
    session.add(delivery)
    return delivery


async def _experiment_data(session: AsyncSession, experiment_id: str) -> dict[str, Any]:
    statement = (
        select(Experiment, Project.name, User.name)
        .join(Project, Project.id == Experiment.project_id)
        .join(User, User.id == Experiment.user_id)
        .where(Experiment.id == experiment_id)
        .execution_options(populate_existing=True)
    )
    row, project, user = (await session.execute(statement)).one()
    facts = {
        "id": row.id,
        "name": row.name,
        "user": user,
        "tags": row.tags,
        "status": row.status,
        "end_reason": row.end_reason,
        "message": row.message,
        "submitted_at": _iso(row.submitted_at),
        "started_at": _iso(row.started_at),
        "ended_at": _iso(row.ended_at),
    }
    return {"project": project, "experiment": facts}


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time is not None else None
