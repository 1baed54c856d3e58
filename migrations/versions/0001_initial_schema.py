"""The initial schema: people, experiments, attempts, telemetry, scheduling; and the project `default`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = postgresql.JSONB()


def upgrade() -> None:
    _create_people()
    _create_experiments()
    _create_attempts()
    _create_metrics()
    _create_texts()
    _create_scheduling()
    # Until teams are managed, everybody works in this project.
    op.execute("INSERT INTO projects (id, name) VALUES ('project-default', 'default')")


def downgrade() -> None:
    # In the reverse order of their references; indexes go with their tables.
    for table in (
        "cluster_state",
        "service_processes",
        "scheduler_lease",
        "rollout_samples",
        "log_lines",
        "metric_chunks",
        "metric_tail",
        "metric_series",
        "stage_results",
        "experiment_events",
        "attempts",
        "experiments",
        "api_tokens",
        "users",
        "projects",
    ):
        op.drop_table(table)


def _create_people() -> None:
    """Projects, people and their tokens."""
    op.create_table(
        "projects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", _TIME, nullable=True),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_tokens_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_api_tokens_token_sha256")),
    )
    op.create_index(op.f("ix_api_tokens_user_id"), "api_tokens", ["user_id"])


def _create_experiments() -> None:
    """Experiments; the queued ones are the queue."""
    op.create_table(
        "experiments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("spec_sha256", sa.String(length=64), nullable=False),
        sa.Column("plan", _JSON, nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("priority_rank", sa.SmallInteger(), nullable=False),
        sa.Column("num_cpus", sa.Double(), nullable=False),
        sa.Column("num_gpus", sa.Double(), nullable=False),
        sa.Column("max_retries", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("waiting_reason", sa.Text(), nullable=True),
        sa.Column("num_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("num_failed_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("submitted_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("queued_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("not_before", _TIME, nullable=True),
        sa.Column("cancel_requested_at", _TIME, nullable=True),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.CheckConstraint(
            "(status IN ('succeeded','failed','cancelled')) = (ended_at IS NOT NULL AND end_reason IS NOT NULL)",
            name=op.f("ck_experiments_end"),
        ),
        sa.CheckConstraint(
            "status IN ('queued','admitted','running','cancelling','succeeded','failed','cancelled')",
            name=op.f("ck_experiments_status"),
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_experiments_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_experiments_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("user_id", "idempotency_key", name=op.f("uq_experiments_user_id_idempotency_key")),
    )
    op.create_index(
        "ix_experiments_newest", "experiments", [sa.literal_column("submitted_at DESC"), sa.literal_column("id DESC")]
    )
    op.create_index(op.f("ix_experiments_project_id"), "experiments", ["project_id"])
    op.create_index(
        "ix_experiments_queue",
        "experiments",
        ["priority_rank", "queued_at", "id"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index("ix_experiments_tags", "experiments", ["tags"], postgresql_using="gin")
    op.create_index(op.f("ix_experiments_user_id"), "experiments", ["user_id"])


def _create_attempts() -> None:
    """Attempts, and what happened and came out of them."""
    op.create_table(
        "attempts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("evidence", _JSON, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("ray_submission_id", sa.Text(), nullable=False),
        sa.Column("ray_session", sa.Text(), nullable=True),
        sa.Column("num_cpus", sa.Double(), nullable=False),
        sa.Column("num_gpus", sa.Double(), nullable=False),
        sa.Column("progress", _JSON, nullable=True),
        sa.Column("last_report_seq", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("submitted_at", _TIME, nullable=True),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("heartbeat_at", _TIME, nullable=True),
        sa.Column("stop_requested_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("released_at", _TIME, nullable=True),
        sa.CheckConstraint(
            "(status = 'ended') = (ended_at IS NOT NULL AND end_reason IS NOT NULL)", name=op.f("ck_attempts_end")
        ),
        sa.CheckConstraint("released_at IS NULL OR status = 'ended'", name=op.f("ck_attempts_released")),
        sa.CheckConstraint("status IN ('launching','submitted','running','ended')", name=op.f("ck_attempts_status")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_attempts_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("experiment_id", "number", name=op.f("uq_attempts_experiment_id_number")),
        sa.UniqueConstraint("ray_submission_id", name=op.f("uq_attempts_ray_submission_id")),
    )
    op.create_index(
        "uq_attempts_live", "attempts", ["experiment_id"], unique=True, postgresql_where=sa.text("released_at IS NULL")
    )
    op.create_table(
        "experiment_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=True),
        sa.Column("ts", _TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("detail", _JSON, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_experiment_events_attempt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_events_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment_events")),
    )
    op.create_index("ix_experiment_events_experiment", "experiment_events", ["experiment_id", "id"])
    op.create_table(
        "stage_results",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("result", _JSON, nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_stage_results_attempt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_stage_results_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "stage", name=op.f("pk_stage_results")),
    )


def _create_metrics() -> None:
    """Metric series: a hot tail, folded into chunks."""
    op.create_table(
        "metric_series",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("num_points", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tail_points", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_step", sa.BigInteger(), server_default=sa.text("-1"), nullable=False),
        sa.Column("last_value", sa.Double(), nullable=True),
        sa.Column("last_ts", _TIME, nullable=True),
        sa.Column("change", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_metric_series_attempt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_metric_series_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric_series")),
        sa.UniqueConstraint("attempt_id", "name", name=op.f("uq_metric_series_attempt_id_name")),
    )
    op.create_index("ix_metric_series_experiment", "metric_series", ["experiment_id"])
    op.create_table(
        "metric_tail",
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("ts", _TIME, nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"], ["metric_series.id"], name=op.f("fk_metric_tail_series_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_id", "step", name=op.f("pk_metric_tail")),
    )
    op.create_table(
        "metric_chunks",
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("num_points", sa.Integer(), nullable=False),
        sa.Column("num_finite", sa.Integer(), nullable=False),
        sa.Column("value_min", sa.Double(), nullable=True),
        sa.Column("value_max", sa.Double(), nullable=True),
        sa.Column("value_sum", sa.Double(), nullable=False),
        sa.Column("steps", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("ts", postgresql.ARRAY(_TIME), nullable=False),
        sa.Column("values", postgresql.ARRAY(sa.Double()), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"], ["metric_series.id"], name=op.f("fk_metric_chunks_series_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_id", "first_step", name=op.f("pk_metric_chunks")),
    )


def _create_texts() -> None:
    """Log lines and completions."""
    op.create_table(
        "log_lines",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("ts", _TIME, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_log_lines_attempt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_log_lines_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_lines")),
    )
    op.create_index("ix_log_lines_experiment", "log_lines", ["experiment_id", "id"])
    op.create_table(
        "rollout_samples",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("prompt_uid", sa.BigInteger(), nullable=False),
        sa.Column("sample_index", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("reward", sa.Double(), nullable=False),
        sa.Column("num_tokens", sa.Integer(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_rollout_samples_attempt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_rollout_samples_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_samples")),
    )
    op.create_index("ix_rollout_samples_experiment", "rollout_samples", ["experiment_id", "id"])


def _create_scheduling() -> None:
    """The scheduler's lease, signs of life, and what was last seen of the cluster."""
    op.create_table(
        "scheduler_lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_scheduler_lease")),
    )
    op.create_table(
        "service_processes",
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("detail", _JSON, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("pk_service_processes")),
    )
    op.create_table(
        "cluster_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("observed_at", _TIME, nullable=False),
        sa.Column("reachable", sa.Boolean(), nullable=False),
        sa.Column("ray_session", sa.Text(), nullable=True),
        sa.Column("num_cpus", sa.Double(), nullable=False),
        sa.Column("num_gpus", sa.Double(), nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_cluster_state_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cluster_state")),
    )
