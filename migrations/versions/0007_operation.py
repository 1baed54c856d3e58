"""Failures counted by their kind, when a run last moved, what its sentinels saw, and death certificates."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_EMPTY = sa.text("'{}'::jsonb")


def upgrade() -> None:
    _widen_metrics()
    op.add_column("experiments", sa.Column("failure_counts", postgresql.JSONB(), server_default=_EMPTY, nullable=False))
    op.add_column("attempts", sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("attempts", sa.Column("sentinels", postgresql.JSONB(), server_default=_EMPTY, nullable=False))
    op.add_column("attempts", sa.Column("ray_job_id", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("swept_at", sa.DateTime(timezone=True), nullable=True))
    # Signs of life are a few seconds old at most: they come again by themselves.
    op.execute("DELETE FROM service_processes")
    op.add_column("service_processes", sa.Column("instance", sa.Text(), nullable=False))
    op.drop_constraint(op.f("pk_service_processes"), "service_processes")
    op.create_primary_key(op.f("pk_service_processes"), "service_processes", ["role", "instance"])
    op.create_table(
        "attempt_certificates",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("certificate", postgresql.JSONB(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_attempt_certificates_attempt_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_attempt_certificates")),
    )
    op.create_table(
        "log_chunks",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("first_id", sa.BigInteger(), nullable=False),
        sa.Column("num_lines", sa.Integer(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sources", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("attempt_numbers", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("first_ts", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_ts", sa.DateTime(timezone=True), nullable=False),
        sa.Column("shipped_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_log_chunks_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "last_id", name=op.f("pk_log_chunks")),
    )
    _create_retention()


def _create_retention() -> None:
    days = ("logs_days", "rollouts_days", "token_views_days", "checkpoints_days")
    op.create_table(
        "retention_policies",
        sa.Column("project_id", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=True) for name in days),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_retention_policies_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_retention_policies")),
    )
    op.create_table(
        "retention_removals",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", postgresql.JSONB(), server_default=_EMPTY, nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_retention_removals_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "kind", name=op.f("pk_retention_removals")),
    )


def downgrade() -> None:
    op.drop_table("retention_removals")
    op.drop_table("retention_policies")
    _narrow_metrics()
    op.drop_table("log_chunks")
    op.drop_table("attempt_certificates")
    op.execute("DELETE FROM service_processes")
    op.drop_constraint(op.f("pk_service_processes"), "service_processes")
    op.drop_column("service_processes", "instance")
    op.create_primary_key(op.f("pk_service_processes"), "service_processes", ["role"])
    op.drop_column("attempts", "swept_at")
    op.drop_column("attempts", "ray_job_id")
    op.drop_column("attempts", "sentinels")
    op.drop_column("attempts", "progress_at")
    op.drop_column("experiments", "failure_counts")


def _widen_metrics() -> None:
    """The tail's points as arrays, one row a batch; envelopes of 32 and of 1,024 chunks."""
    op.rename_table("metric_tail", "metric_tail_narrow")
    for old in ("pk_metric_tail", "fk_metric_tail_series_id"):
        op.execute(f"ALTER TABLE metric_tail_narrow RENAME CONSTRAINT {old} TO {old}_narrow")
    op.create_table(
        "metric_tail",
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("steps", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("ts", postgresql.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.Column("values", postgresql.ARRAY(sa.Double()), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"], ["metric_series.id"], name=op.f("fk_metric_tail_series_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_id", "first_step", name=op.f("pk_metric_tail")),
    )
    op.execute(
        "INSERT INTO metric_tail SELECT series_id, min(step), array_agg(step ORDER BY step),"
        " array_agg(ts ORDER BY step), array_agg(value ORDER BY step) FROM metric_tail_narrow GROUP BY series_id"
    )
    op.drop_table("metric_tail_narrow")
    op.create_index(
        "ix_metric_series_unfolded", "metric_series", ["id"], postgresql_where=sa.text("tail_points > 0")
    )
    op.create_table(
        "metric_levels",
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("num_points", sa.BigInteger(), nullable=False),
        sa.Column("num_finite", sa.BigInteger(), nullable=False),
        sa.Column("value_min", sa.Double(), nullable=True),
        sa.Column("value_max", sa.Double(), nullable=True),
        sa.Column("value_sum", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"], ["metric_series.id"], name=op.f("fk_metric_levels_series_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_id", "level", "first_step", name=op.f("pk_metric_levels")),
    )


def _narrow_metrics() -> None:
    op.drop_table("metric_levels")
    op.drop_index("ix_metric_series_unfolded", table_name="metric_series")
    op.rename_table("metric_tail", "metric_tail_wide")
    for old in ("pk_metric_tail", "fk_metric_tail_series_id"):
        op.execute(f"ALTER TABLE metric_tail_wide RENAME CONSTRAINT {old} TO {old}_wide")
    op.create_table(
        "metric_tail",
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("ts", sa.DateTime(timezone=True), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"], ["metric_series.id"], name=op.f("fk_metric_tail_series_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_id", "step", name=op.f("pk_metric_tail")),
    )
    op.execute(
        "INSERT INTO metric_tail SELECT series_id, step, at, value FROM metric_tail_wide,"
        " unnest(steps, ts, values) AS point (step, at, value)"
    )
    op.drop_table("metric_tail_wide")
