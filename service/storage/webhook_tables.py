"""Who is told of status changes over HTTP, and what became of each telling."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class Webhook(Base):
    """One address that a project's events are sent to. Its secret is derived, never stored."""

    __tablename__ = "webhooks"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str]
    url: Mapped[str]
    events: Mapped[list[str]]
    """`experiment.<status>`; empty: all of them."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    secret_version: Mapped[int] = mapped_column(server_default=text("1"))
    secret_rotated_at: Mapped[datetime | None]
    """For a while after it the secret before signs too."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookDelivery(Base):
    """One event for one webhook: the outbox, and the log of what was sent.

    pending ──claimed, sent──> delivered          A claim is a time until which nobody else sends it.
       ^  └──limit of tries, or refused──> dead ──redeliver──> pending
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_due", "next_attempt_at", postgresql_where=text("status = 'pending'")),
        Index("ix_webhook_deliveries_webhook", "webhook_id", "id"),
        CheckConstraint("status IN ('pending','delivered','dead')", name="status"),
        CheckConstraint("(status = 'pending') = (finished_at IS NULL)", name="finished"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event: Mapped[str]
    body: Mapped[str]
    """What is sent, to the byte: each try signs the same."""
    status: Mapped[str] = mapped_column(server_default="pending")
    num_attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    claimed_until: Mapped[datetime | None]
    last_status: Mapped[int | None]
    """HTTP status of the last answer."""
    last_answer: Mapped[str | None]
    """The beginning of its body."""
    last_error: Mapped[str | None]
    """Why there was no answer, or why it does not count."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
