"""The audit log's table. A trigger of the database refuses to change or delete what is in it."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class AuditEntry(Base):
    """One change: by whom, of what, from what to what.

    Names are copied and nothing is referenced: an entry outlives what it speaks of.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_project", "project_id", "id"),
        Index("ix_audit_log_target", "target_kind", "target_id", "id"),
        CheckConstraint("actor_kind IN ('person','service','system')", name="actor_kind"),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    ts: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    actor_kind: Mapped[str]
    actor_id: Mapped[str | None]
    actor: Mapped[str]
    """The name that the user had."""
    token_id: Mapped[str | None]
    action: Mapped[str]
    """`<kind of target>.<verb>`, such as `experiment.cancel`."""
    target_kind: Mapped[str]
    target_id: Mapped[str]
    target: Mapped[str]
    """The name that it had."""
    project_id: Mapped[str | None]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    request_id: Mapped[str | None]
