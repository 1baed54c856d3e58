"""Who has which role in which project."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, func
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class Membership(Base):
    """One user's role in one project."""

    __tablename__ = "memberships"
    __table_args__ = (
        CheckConstraint("role IN ('viewer','member','maintainer')", name="role"),
        CheckConstraint("source IN ('manual','oidc')", name="source"),
    )
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[str]
    source: Mapped[str] = mapped_column(server_default="manual")
    """`oidc`: follows from the groups of the issuer of log-ins, and is brought up to date with each log-in."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
