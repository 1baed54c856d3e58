"""The outbox and the log of what was sent: claim, settle, read, redeliver, forget."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from service import audit
from service.access import Actor
from service.errors import NotAllowedNow, NotFound
from service.storage.json_values import storable_text
from service.storage.tables import Project
from service.storage.webhook_tables import Webhook, WebhookDelivery
from service.webhooks.sending import TIMEOUT_S, Outcome

MAX_ATTEMPTS = 12
"""With the waits below: for about four hours."""
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 3600.0
KEPT_FOR = timedelta(days=30)
_CLAIM = timedelta(seconds=3 * TIMEOUT_S)
"""Longer than any try. A sender that died is stood in for after it."""
_AT_ONCE_PER_WEBHOOK = 4
"""One slow receiver may not hold up the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A message that is ours to send now, with where it goes."""

    delivery: WebhookDelivery
    webhook: Webhook


def wait_s(num_attempts: int, *, asked_for_s: float | None = None, draw: float | None = None) -> float:
    """Seconds until the next try after `num_attempts` failed ones: doubling, half of it drawn at random.

    `draw`, in [0, 1), stands in for chance. What the receiver asks for is kept, up to the longest wait.
    """
    chance = random.random() if draw is None else draw
    base = min(FIRST_WAIT_S * 2.0 ** min(num_attempts - 1, 20), LONGEST_WAIT_S)
    return min(max(base * (0.5 + 0.5 * chance), asked_for_s or 0.0), LONGEST_WAIT_S)


async def claim(session: AsyncSession, limit: int) -> list[Claimed]:
    """Up to `limit` messages that are due, and nobody else's for the time that a try may take."""
    other = aliased(WebhookDelivery)
    on_their_way = (
        select(func.count())
        .select_from(other)
        .where(other.webhook_id == WebhookDelivery.webhook_id, other.status == "pending")
        .where(other.claimed_until >= func.now())
        .correlate(WebhookDelivery)
        .scalar_subquery()
    )
    place = func.row_number().over(
        partition_by=WebhookDelivery.webhook_id, order_by=(WebhookDelivery.next_attempt_at, WebhookDelivery.id)
    )
    due = (
        select(
            WebhookDelivery.id,
            (place + on_their_way).label("place"),
        )
        .where(
            WebhookDelivery.status == "pending",
            WebhookDelivery.next_attempt_at <= func.now(),
            or_(WebhookDelivery.claimed_until.is_(None), WebhookDelivery.claimed_until < func.now()),
        )
        .subquery()
    )
    chosen = await session.execute(
        select(WebhookDelivery, Webhook)
        .join(due, due.c.id == WebhookDelivery.id)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(due.c.place <= _AT_ONCE_PER_WEBHOOK, WebhookDelivery.status == "pending")
        .order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.id)
        .limit(limit)
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    )
    claimed = [Claimed(delivery=delivery, webhook=webhook) for delivery, webhook in chosen]
    if not claimed:
        return []
    await session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_([one.delivery.id for one in claimed]))
        .values(claimed_until=func.now() + _CLAIM, num_attempts=WebhookDelivery.num_attempts + 1)
        .execution_options(synchronize_session=False)
    )
    return claimed


async def settle(session: AsyncSession, claimed: Claimed, outcome: Outcome) -> str | None:
    """Notes what became of a try; returns the new status, or None if the message was settled by somebody else."""
    num_attempts = claimed.delivery.num_attempts + 1
    over = outcome.is_delivered or outcome.is_final or num_attempts >= MAX_ATTEMPTS
    status = "delivered" if outcome.is_delivered else "dead" if over else "pending"
    wait = timedelta(seconds=0 if over else wait_s(num_attempts, asked_for_s=outcome.retry_after_s))
    return await session.scalar(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == claimed.delivery.id,
            WebhookDelivery.status == "pending",
            WebhookDelivery.num_attempts == num_attempts,
        )
        .values(
            status=status,
            claimed_until=None,
            next_attempt_at=func.now() + wait,
            finished_at=func.now() if over else None,
            last_status=outcome.status,
            last_answer=storable_text(outcome.answer) or None,
            last_error=storable_text(outcome.error) or None,
        )
        .returning(WebhookDelivery.status)
        .execution_options(synchronize_session=False)
    )


async def page_before(
    session: AsyncSession, webhook: Webhook, *, status: str | None, before: str | None, limit: int
) -> Sequence[WebhookDelivery]:
    """Up to `limit` deliveries with ids below `before`, newest first."""
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    if status is not None:
        statement = statement.where(WebhookDelivery.status == status)
    if before is not None:
        statement = statement.where(WebhookDelivery.id < before)
    return (await session.scalars(statement.order_by(WebhookDelivery.id.desc()).limit(limit))).all()


async def redeliver(
    session: AsyncSession, by: Actor, project: Project, webhook: Webhook, delivery_id: str
) -> WebhookDelivery:
    """Sends a message again, with the same id and all its tries back. Raises NotFound; NotAllowedNow while pending."""
    delivery = await session.scalar(
        select(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook.id)
        .with_for_update()
    )
    if delivery is None:
        raise NotFound(f"webhook {webhook.name!r} has no delivery {delivery_id!r}; list them to find the id")
    if delivery.status == "pending":
        raise NotAllowedNow(f"delivery {delivery_id} is on its way; wait until it is delivered or dead")
    before = {"status": delivery.status, "num_attempts": delivery.num_attempts}
    delivery.status, delivery.num_attempts = "pending", 0
    delivery.finished_at = delivery.claimed_until = None
    delivery.next_attempt_at = (await session.execute(select(func.now()))).scalar_one()
    target = audit.Target(kind="delivery", id=delivery.id, name=delivery.event, project_id=project.id)
    await audit.record(session, by, "redeliver", target, before=before, after={"status": "pending", "num_attempts": 0})
    return delivery


async def forget_old(session: AsyncSession) -> int:
    """Deletes what was settled more than 30 days ago; returns how many."""
    gone = await session.scalars(
        delete(WebhookDelivery)
        .where(WebhookDelivery.finished_at < func.now() - KEPT_FOR)
        .returning(WebhookDelivery.id)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())
