"""Studies: what was stated before the first run, what was changed since, and the experiments that belong to it."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, String, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class Study(Base):
    """One comparison of arms over seeds. What was submitted is never changed: changes are amendments."""

    __tablename__ = "studies"
    __table_args__ = (
        # A repeated POST with the same key finds the first study instead of making another.
        UniqueConstraint("user_id", "idempotency_key"),
        CheckConstraint("state IN ('running','paused','stopped','cancelled','finished')", name="state"),
        Index("ix_studies_newest", text("created_at DESC"), text("id DESC")),
        # The scheduler's pass looks at those that are not over.
        Index("ix_studies_open", "id", postgresql_where=text("state IN ('running','paused')")),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    """The owner: who submitted it, and in whose name its experiments wait; those of an amendment in its author's."""
    name: Mapped[str]
    spec: Mapped[dict[str, Any]]
    """`StudySpec` as submitted."""
    plan: Mapped[dict[str, Any]]
    """`StudyPlan` as it was at submission, or at the last amendment."""
    idempotency_key: Mapped[str | None]
    body_sha256: Mapped[str] = mapped_column(String(64))
    """Digest of the submitted body, to tell a repeated request from a misused key."""
    state: Mapped[str]
    state_reason: Mapped[str | None]
    """`StudyReason`; NULL while it runs."""
    message: Mapped[str] = mapped_column(server_default="")
    """The reason in words."""
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """The figures behind the state."""
    last_check: Mapped[dict[str, Any] | None]
    """Half widths by arm, and what they were computed from; written when either changes."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    state_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When the state last changed."""


class StudyAmendment(Base):
    """A change of a study after it was locked. The study as it stands is the submitted one with all of them applied."""

    __tablename__ = "study_amendments"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        CheckConstraint("kind IN ('add_seeds','add_arms','change_budget')", name="kind"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    number: Mapped[int]
    """From 1, in the order in which they were made."""
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    by: Mapped[str]
    """Name of the user."""
    kind: Mapped[str]
    change: Mapped[dict[str, Any]]
    """`StudyChange` as submitted."""
    reason: Mapped[str]


class StudyRun(Base):
    """One experiment of a study."""

    __tablename__ = "study_runs"
    __table_args__ = (
        # Each arm runs once with each pair of seeds: the same run twice says nothing about chance.
        UniqueConstraint("study_id", "arm", "sft_seed", "rl_seed"),
        UniqueConstraint("experiment_id"),
        ForeignKeyConstraint(
            ["study_id", "amendment"],
            ["study_amendments.study_id", "study_amendments.number"],
            ondelete="CASCADE",
        ),
        # Who takes a run out says so and why.
        CheckConstraint(
            "(excluded_at IS NULL) = (excluded_by IS NULL) AND (excluded_at IS NULL) = (excluded_reason IS NULL)",
            name="exclusion",
        ),
    )
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """From 0, in the order in which they were queued."""
    arm: Mapped[str]
    """With the values of the factors: `sed`, or `sed [sft.num_epochs=3]`."""
    sft_seed: Mapped[int]
    rl_seed: Mapped[int]
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    amendment: Mapped[int | None]
    """The number of the amendment that brought it; NULL for a run of the study as submitted."""
    excluded_at: Mapped[datetime | None]
    excluded_by: Mapped[str | None]
    """Name of the user."""
    excluded_reason: Mapped[str | None]
