"""Which files hold the lines that have left the database."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Integer

from service.storage.tables import Base


class LogChunkRow(Base):
    """One file of an experiment's shipped lines; files follow each other without overlap."""

    __tablename__ = "log_chunks"
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    last_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    first_id: Mapped[int] = mapped_column(BigInteger)
    num_lines: Mapped[int]
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    """Compressed."""
    sources: Mapped[list[str]]
    attempt_numbers: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    first_ts: Mapped[datetime]
    last_ts: Mapped[datetime]
    shipped_at: Mapped[datetime] = mapped_column(server_default=func.now())
