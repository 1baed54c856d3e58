"""Where death certificates are laid down."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class CertificateRow(Base):
    """One for each attempt whose resources were released; written once."""

    __tablename__ = "attempt_certificates"
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    certificate: Mapped[dict[str, Any]]
    issued_at: Mapped[datetime]
