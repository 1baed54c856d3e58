"""How long a project's leftovers are kept, and what was removed of an experiment."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class RetentionRow(Base):
    """A project's own policy; without a row the service's holds. NULL: kept for ever."""

    __tablename__ = "retention_policies"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    logs_days: Mapped[int | None]
    rollouts_days: Mapped[int | None]
    token_views_days: Mapped[int | None]
    checkpoints_days: Mapped[int | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RemovalRow(Base):
    """That something of an ended experiment was removed: once for each kind and end."""

    __tablename__ = "retention_removals"
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    removed_at: Mapped[datetime]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
