"""The tokens that people and their programs show. Drivers' tokens are derived and have no table."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, String, func
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class ApiToken(Base):
    """A user's token; only its SHA-256 is kept."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        CheckConstraint("scope IN ('read','write','admin')", name="scope"),
        CheckConstraint("purpose IN ('api','page')", name="purpose"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[str]
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"))
    """The only project that it opens; NULL: all of its user's."""
    purpose: Mapped[str] = mapped_column(server_default="api")
    """`page`: a log-in at the page, revoked when its person logs out."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """To within some minutes."""
