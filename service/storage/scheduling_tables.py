"""What the queue needs beside the experiments themselves: demands, holdings, usage, quotas, and what people ordered."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    String,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables import Base


class QueueEntry(Base):
    """What the queue has to know of an experiment, apart from its long specification: it is read in every pass."""

    __tablename__ = "queue_entries"
    __table_args__ = (CheckConstraint("on_failed_dependency IN ('wait','cancel','run')", name="on_failed_dependency"),)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    roles: Mapped[list[Any]] = mapped_column(JSONB)
    """Each role's actors: `role`, `count`, `max_count`, and of one actor `num_cpus`, `num_gpus`, `gpu_types`."""
    max_runtime_s: Mapped[float]
    preemptible: Mapped[bool]
    start_not_before: Mapped[datetime | None]
    """A person's wish; the back-off after a failure is `experiments.not_before`."""
    after_ids: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    on_failed_dependency: Mapped[str] = mapped_column(server_default="wait")
    limits: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    """Groups with their `max_running`."""
    held_by: Mapped[str | None]
    held_reason: Mapped[str] = mapped_column(server_default="")
    held_at: Mapped[datetime | None]
    reuse: Mapped[bool] = mapped_column(server_default=text("true"))
    content_state: Mapped[str] = mapped_column(server_default="none")
    """Of what its stages are made from: `pending` until it is known whether another experiment has the same, then
    `known`; `none` where nothing has to be known."""
    wait_code: Mapped[str | None]
    waits_for: Mapped[str | None]
    """The experiment for which it waits, if it is one."""


class AttemptHolding(Base):
    """What an attempt holds, where, what it counts for its user, and what was asked of it."""

    __tablename__ = "attempt_holdings"
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    bundles: Mapped[list[Any]] = mapped_column(JSONB)
    """Each bundle's `role`, `node`, `num_cpus` and `num_gpus`, in the order of the actors. Then those that are lent,
    with their `lent` id and `state`: `held`, `wanted_back`, or `gone` when the driver has let go of it."""
    rate: Mapped[float]
    """Weighted resources: what it uses in a second."""
    penalty: Mapped[float]
    """Counts from admission on, until more has really been used."""
    charged: Mapped[float] = mapped_column(server_default=text("0"))
    """Of its real use, as much as stands in `usage_totals` already."""
    charged_until: Mapped[datetime]
    preempt_requested_at: Mapped[datetime | None]
    preempt_reason: Mapped[str] = mapped_column(server_default="")
    preempted_for: Mapped[str | None]
    """The experiment that needs its resources."""
    preempt_heard_at: Mapped[datetime | None]
    """When the driver said at which step it stops."""
    preempt_step: Mapped[dict[str, Any] | None]
    """Stage and step after which it stops."""


class UsageTotal(Base):
    """Decayed use of a user in a project by attempts that are over, in weighted seconds as of a moment."""

    __tablename__ = "usage_totals"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    value: Mapped[float]
    as_of: Mapped[datetime]


class UsageRecord(Base):
    """A stretch of real use, kept undecayed: what GPU-hours within a window are counted from."""

    __tablename__ = "usage_records"
    __table_args__ = (Index("ix_usage_records_project", "project_id", "ended_at"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    attempt_id: Mapped[str | None] = mapped_column(ForeignKey("attempts.id", ondelete="SET NULL"))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    num_cpus: Mapped[float]
    num_gpus: Mapped[float]
    rate: Mapped[float]


class Quota(Base):
    """What a project, or a user within it, may hold and use, and which share it is meant to get. NULL: no limit."""

    __tablename__ = "quotas"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    """Empty for the project as a whole."""
    shares: Mapped[float] = mapped_column(server_default=text("1"))
    max_running: Mapped[int | None]
    max_queued: Mapped[int | None]
    max_cpus: Mapped[float | None]
    max_gpus: Mapped[float | None]
    max_gpu_hours: Mapped[float | None]
    window_days: Mapped[float] = mapped_column(server_default=text("7"))
    max_storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    default_max_runtime_s: Mapped[int | None]
    """Of a project: for experiments that do not say how long they may run."""
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_by: Mapped[str]


class QueuePause(Base):
    """Nothing new starts."""

    __tablename__ = "queue_pauses"
    scope: Mapped[str] = mapped_column(primary_key=True)
    """A project's id; empty for the whole queue."""
    drains: Mapped[bool]
    reason: Mapped[str]
    by_user: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.now())


class MaintenanceWindow(Base):
    """A time in which nothing may run."""

    __tablename__ = "maintenance_windows"
    __table_args__ = (CheckConstraint("ends_at > starts_at", name="order"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    reason: Mapped[str]
    by_user: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class QueueSnapshot(Base):
    """How the scheduler saw the queue in its last pass. One row: positions of thousands are written at once."""

    __tablename__ = "queue_snapshot"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    decided_at: Mapped[datetime]
    experiment_ids: Mapped[list[str]]
    """In the order of the queue."""
    starts: Mapped[list[float]] = mapped_column(ARRAY(Double), server_default=text("'{}'"))
    """When each of them is expected to start at the latest, in seconds since the epoch; infinity where unknown."""
    facts: Mapped[dict[str, Any]]
    """Reservations, usage and policy as they were: the terms of everybody's place."""


class StartForecast(Base):
    """The first forecast of an experiment's start and what came of it: how far forecasts can be trusted."""

    __tablename__ = "start_forecasts"
    __table_args__ = (
        Index("ix_start_forecasts_started", "started_at", postgresql_where=text("started_at IS NOT NULL")),
    )
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    made_at: Mapped[datetime]
    predicted_at: Mapped[datetime]
    started_at: Mapped[datetime | None]


class StageKey(Base):
    """The digests of all that determines a stage's result."""

    __tablename__ = "stage_keys"
    __table_args__ = (Index("ix_stage_keys_settings", "project_id", "stage", "settings_key"),)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    settings_key: Mapped[str] = mapped_column(String(64))
    """Of everything in the specification but the places of files."""
    content_key: Mapped[str | None] = mapped_column(String(64))
    """Of what the files hold; NULL while nobody needs it, empty where it cannot be known."""


class ContentDigest(Base):
    """The digest of a file or folder as it was at a time of its own clock, so that it is read once."""

    __tablename__ = "content_digests"
    path: Mapped[str] = mapped_column(primary_key=True)
    stamp: Mapped[str]
    """Names, sizes and times of all files; another one means that the digest is out of date."""
    sha256: Mapped[str] = mapped_column(String(64))
    made_at: Mapped[datetime] = mapped_column(server_default=func.now())


class OutputSize(Base):
    """How much an experiment's outputs take, as last measured."""

    __tablename__ = "output_sizes"
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    measured_at: Mapped[datetime]
