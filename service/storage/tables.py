"""The schema. Invariants are constraints; each has a comment that says which promise it keeps."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """All times are timezone-aware UTC."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        float: Double,
        str: Text,
    }


class Project(Base):
    """A team; owns experiments."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    archived_at: Mapped[datetime | None]
    """From then on it takes no submission and no retry."""


class User(Base):
    """Somebody who submits experiments: a person or a service account."""

    __tablename__ = "users"
    __table_args__ = (
        # A service account belongs to the project whose maintainers look after it, and never governs the service.
        CheckConstraint("kind IN ('person','service')", name="kind"),
        CheckConstraint("(kind = 'service') = (home_project_id IS NOT NULL)", name="home"),
        CheckConstraint("kind = 'person' OR NOT is_admin", name="admin"),
        # One identity at the issuer of log-ins is one user.
        UniqueConstraint("oidc_issuer", "oidc_subject"),
        CheckConstraint("(oidc_issuer IS NULL) = (oidc_subject IS NULL)", name="identity"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(server_default="person")
    is_admin: Mapped[bool] = mapped_column(server_default=text("false"))
    home_project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"))
    oidc_issuer: Mapped[str | None]
    oidc_subject: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]
    """From then on none of their tokens is accepted."""


class Experiment(Base):
    """One submitted specification and where it stands. The row in status `queued` is the queue entry."""

    __tablename__ = "experiments"
    __table_args__ = (
        # The scheduler reads the queue in this order, and only queued rows.
        Index(
            "ix_experiments_queue",
            "priority_rank",
            "queued_at",
            "id",
            postgresql_where=text("status = 'queued'"),
        ),
        Index("ix_experiments_newest", text("submitted_at DESC"), text("id DESC")),
        Index("ix_experiments_tags", "tags", postgresql_using="gin"),
        Index("ix_experiments_objective", "objective", text("submitted_at DESC"), text("id DESC")),
        # A repeated POST with the same key finds the first experiment instead of making another.
        UniqueConstraint("user_id", "idempotency_key"),
        CheckConstraint(
            "status IN ('queued','admitted','running','cancelling','succeeded','failed','cancelled')", name="status"
        ),
        # Terminal and only terminal rows have an end and its reason.
        CheckConstraint(
            "(status IN ('succeeded','failed','cancelled')) = (ended_at IS NOT NULL AND end_reason IS NOT NULL)",
            name="end",
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str]
    tags: Mapped[list[str]]
    spec: Mapped[dict[str, Any]]
    spec_sha256: Mapped[str] = mapped_column(String(64))
    objective: Mapped[str | None] = mapped_column(Computed("spec #>> '{sft,objective,type}'", persisted=True))
    """Of the SFT stage; a column of its own so that lists are filtered by it without reading specifications."""
    description: Mapped[str | None] = mapped_column(Computed("spec ->> 'description'", persisted=True))
    plan: Mapped[dict[str, Any]]
    """Derived numbers as they were at submission: steps, samples, demand, warnings."""
    idempotency_key: Mapped[str | None]
    body_sha256: Mapped[str] = mapped_column(String(64))
    """Digest of the submitted body, to tell a repeated request from a misused key."""
    priority_rank: Mapped[int] = mapped_column(SmallInteger)
    num_cpus: Mapped[float]
    num_gpus: Mapped[float]
    max_retries: Mapped[int]
    status: Mapped[str]
    end_reason: Mapped[str | None]
    message: Mapped[str] = mapped_column(server_default="")
    waiting_reason: Mapped[str | None]
    """Why a queued experiment has not been admitted, in words."""
    num_attempts: Mapped[int] = mapped_column(server_default=text("0"))
    num_failed_attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """Failures that count against `max_retries` since the last submission, retry by a person, or hour of progress."""
    failure_counts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """Failures in a row by their kind (`service.contract.failures`), since the same moment."""
    submitted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """Kept when an infrastructure failure sends the experiment back: it does not lose its place."""
    not_before: Mapped[datetime | None]
    """Back-off after an infrastructure failure."""
    cancel_requested_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Attempt(Base):
    """One Ray job for an experiment."""

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("experiment_id", "number"),
        # Never two attempts at once, nor a new one before the resources of the last were seen free.
        Index("uq_attempts_live", "experiment_id", unique=True, postgresql_where=text("released_at IS NULL")),
        CheckConstraint("status IN ('launching','submitted','running','ended')", name="status"),
        CheckConstraint("(status = 'ended') = (ended_at IS NOT NULL AND end_reason IS NOT NULL)", name="end"),
        CheckConstraint("released_at IS NULL OR status = 'ended'", name="released"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    number: Mapped[int]
    """1 for the first attempt; also the fencing epoch."""
    status: Mapped[str]
    end_reason: Mapped[str | None]
    message: Mapped[str] = mapped_column(server_default="")
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    ray_submission_id: Mapped[str] = mapped_column(unique=True)
    ray_session: Mapped[str | None]
    ray_job_id: Mapped[str | None]
    """Ray's own number of the driver, by which it names what the driver made."""
    num_cpus: Mapped[float]
    num_gpus: Mapped[float]
    progress: Mapped[dict[str, Any] | None]
    progress_at: Mapped[datetime | None]
    """When stage, phase or step last changed."""
    sentinels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """What has been seen of each limit on its metrics."""
    last_report_seq: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    submitted_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    stop_requested_at: Mapped[datetime | None]
    """When Ray was asked to stop the job."""
    ended_at: Mapped[datetime | None]
    swept_at: Mapped[datetime | None]
    """When the nodes were searched for what it had left behind, if it ended hard."""
    released_at: Mapped[datetime | None]
    """When Ray was seen to hold nothing of it any more; until then its resources count as taken."""


class ExperimentEvent(Base):
    """What happened, in order. Within one experiment the ids rise in commit order: writers hold its row."""

    __tablename__ = "experiment_events"
    __table_args__ = (Index("ix_experiment_events_experiment", "experiment_id", "id"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    attempt_id: Mapped[str | None] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    ts: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    kind: Mapped[str]
    """The service's own (`SERVICE_EVENT_KINDS`), or what a driver reports: `checkpoint_skipped`, …"""
    message: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


class StageResultRow(Base):
    """The result of a finished stage: once per experiment and stage."""

    __tablename__ = "stage_results"
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    result: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class MetricSeries(Base):
    """One metric of one attempt."""

    __tablename__ = "metric_series"
    __table_args__ = (
        UniqueConstraint("attempt_id", "name"),
        Index("ix_metric_series_experiment", "experiment_id"),
        # Which tails are still to be folded once their run is over.
        Index("ix_metric_series_unfolded", "id", postgresql_where=text("tail_points > 0")),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(200))
    num_points: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    tail_points: Mapped[int] = mapped_column(server_default=text("0"))
    last_step: Mapped[int] = mapped_column(BigInteger, server_default=text("-1"))
    last_value: Mapped[float | None]
    last_ts: Mapped[datetime | None]
    change: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Rises with every append to the attempt: the cursor of live readers."""


class MetricTail(Base):
    """The newest points, one row for each batch in which they came; older ones are folded into chunks."""

    __tablename__ = "metric_tail"
    series_id: Mapped[int] = mapped_column(ForeignKey("metric_series.id", ondelete="CASCADE"), primary_key=True)
    first_step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    steps: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    ts: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))
    values: Mapped[list[float]] = mapped_column(ARRAY(Double))


class MetricChunk(Base):
    """512 points as arrays with their envelope, so that a plot of a long series reads few rows."""

    __tablename__ = "metric_chunks"
    series_id: Mapped[int] = mapped_column(ForeignKey("metric_series.id", ondelete="CASCADE"), primary_key=True)
    first_step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    last_step: Mapped[int] = mapped_column(BigInteger)
    num_points: Mapped[int]
    num_finite: Mapped[int]
    value_min: Mapped[float | None]
    value_max: Mapped[float | None]
    value_sum: Mapped[float]
    steps: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    ts: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))
    values: Mapped[list[float]] = mapped_column(ARRAY(Double))


class MetricLevel(Base):
    """The envelope of 32 chunks (level 1) or of 32 such envelopes (level 2), for plots of millions of points."""

    __tablename__ = "metric_levels"
    series_id: Mapped[int] = mapped_column(ForeignKey("metric_series.id", ondelete="CASCADE"), primary_key=True)
    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    first_step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    last_step: Mapped[int] = mapped_column(BigInteger)
    num_points: Mapped[int] = mapped_column(BigInteger)
    num_finite: Mapped[int] = mapped_column(BigInteger)
    value_min: Mapped[float | None]
    value_max: Mapped[float | None]
    value_sum: Mapped[float]


class LogLineRow(Base):
    """Lines that the driver, its actors and the scheduler wrote."""

    __tablename__ = "log_lines"
    __table_args__ = (Index("ix_log_lines_experiment", "experiment_id", "id"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    ts: Mapped[datetime]
    source: Mapped[str]
    text: Mapped[str]


class RolloutSampleRow(Base):
    """Completions kept for people to read."""

    __tablename__ = "rollout_samples"
    __table_args__ = (Index("ix_rollout_samples_experiment", "experiment_id", "id"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    stage: Mapped[str]
    step: Mapped[int] = mapped_column(BigInteger)
    prompt_uid: Mapped[int] = mapped_column(BigInteger)
    sample_index: Mapped[int]
    prompt: Mapped[str]
    completion: Mapped[str]
    answer: Mapped[str]
    reward: Mapped[float]
    num_tokens: Mapped[int]
    policy_version: Mapped[int] = mapped_column(BigInteger)


class TokenViewRow(Base):
    """One held-out sample token by token, as measured after one step."""

    __tablename__ = "token_views"
    # An attempt that measures a step again replaces what was measured before.
    __table_args__ = (UniqueConstraint("experiment_id", "stage", "step", "sample_index"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    stage: Mapped[str]
    step: Mapped[int] = mapped_column(BigInteger)
    sample_index: Mapped[int]
    tokens: Mapped[list[str]]
    token_ids: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    # The statistics are float32. Tau has their type, so that a token is flexible here exactly where it was in the run.
    label_probs: Mapped[list[float | None]] = mapped_column(ARRAY(REAL))
    topk_masses: Mapped[list[float | None]] = mapped_column(ARRAY(REAL))
    entropies: Mapped[list[float | None]] = mapped_column(ARRAY(REAL))
    weights: Mapped[list[float | None]] = mapped_column(ARRAY(REAL))
    tau: Mapped[float | None] = mapped_column(REAL)
    top_k: Mapped[int]


class SchedulerLease(Base):
    """Who schedules. One row; the token rises with each change of holder and fences what the last holder writes."""

    __tablename__ = "scheduler_lease"
    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    token: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]


class ServiceProcess(Base):
    """Sign of life of each process of the API and the scheduler."""

    __tablename__ = "service_processes"
    role: Mapped[str] = mapped_column(primary_key=True)
    instance: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


class ClusterState(Base):
    """What the scheduler last saw of Ray. One row."""

    __tablename__ = "cluster_state"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    observed_at: Mapped[datetime]
    reachable: Mapped[bool]
    ray_session: Mapped[str | None]
    num_cpus: Mapped[float]
    """Capacity that may be handed out."""
    num_gpus: Mapped[float]
    node_num_cpus: Mapped[float | None]
    """Of the node that has most."""
    node_num_gpus: Mapped[float | None]
    node_memory_bytes: Mapped[float | None]
    """Of the node that has most; this and the next two are NULL where Ray does not tell."""
    memory_bytes: Mapped[float | None]
    """Of all nodes."""
    gpu_memory_bytes: Mapped[float | None]
    """Of one GPU."""
    nodes: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    """Each node's `id`, `num_cpus`, `num_gpus` and `gpu_type`, and for people `name`, `is_head`, `memory_bytes`, and
    where Ray told them `ray_cpus_held` and `ray_gpus_held`; empty where only the sum is known."""
    message: Mapped[str] = mapped_column(server_default="")
