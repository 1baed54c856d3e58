"""Where an experiment comes from: the words of its submission, and the experiment that it was a copy of."""

from typing import Any

from sqlalchemy import JSON, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class ExperimentOrigin(Base):
    """One for each experiment that a person submitted by itself; those of studies are drawn from the study."""

    __tablename__ = "experiment_origins"
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    submitted: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The body as it came, keys in their order."""
    cloned_from: Mapped[str | None] = mapped_column(ForeignKey("experiments.id", ondelete="SET NULL"), index=True)
