"""The queue's own tables: demands, holdings, usage, quotas, pauses, forecasts, keys of stages."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Every experiment of before has one rollout engine, any kind of GPU, and no wish beyond its priority.
_ENTRIES = """
INSERT INTO queue_entries (experiment_id, roles, max_runtime_s, preemptible)
SELECT id,
       jsonb_build_array(
           jsonb_build_object('role', 'trainer', 'gpu_types', '[]'::jsonb,
                              'count', spec #> '{resources,trainer,num_ranks}',
                              'max_count', spec #> '{resources,trainer,num_ranks}',
                              'num_cpus', spec #> '{resources,trainer,num_cpus}',
                              'num_gpus', spec #> '{resources,trainer,num_gpus}'),
           jsonb_build_object('role', 'rollout', 'gpu_types', '[]'::jsonb,
                              'count', coalesce(spec #> '{resources,rollout,num_engines}', '1'),
                              'max_count', coalesce(spec #> '{resources,rollout,num_engines}', '1'),
                              'num_cpus', spec #> '{resources,rollout,num_cpus}',
                              'num_gpus', spec #> '{resources,rollout,num_gpus}')),
       (spec ->> 'max_runtime_s')::double precision,
       priority_rank >= 3
FROM experiments
"""


def upgrade() -> None:
    op.create_table(
        "content_digests",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("stamp", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_content_digests")),
    )
    op.create_table(
        "maintenance_windows",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by_user", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_maintenance_windows_order")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_maintenance_windows")),
    )
    op.create_table(
        "queue_pauses",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("drains", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by_user", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_queue_pauses")),
    )
    op.create_table(
        "queue_snapshot",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("experiment_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("starts", postgresql.ARRAY(sa.Double()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("facts", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_queue_snapshot_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_snapshot")),
    )
    op.create_table(
        "quotas",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("shares", sa.Double(), server_default=sa.text("1"), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("max_queued", sa.Integer(), nullable=True),
        sa.Column("max_cpus", sa.Double(), nullable=True),
        sa.Column("max_gpus", sa.Double(), nullable=True),
        sa.Column("max_gpu_hours", sa.Double(), nullable=True),
        sa.Column("window_days", sa.Double(), server_default=sa.text("7"), nullable=False),
        sa.Column("max_storage_bytes", sa.BigInteger(), nullable=True),
        sa.Column("default_max_runtime_s", sa.Integer(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_quotas_project_id")),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_quotas")),
    )
    op.create_table(
        "usage_totals",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_usage_totals_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_usage_totals_user_id")),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_usage_totals")),
    )
    op.create_table(
        "output_sizes",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_output_sizes_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_output_sizes")),
    )
    op.create_table(
        "queue_entries",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("roles", postgresql.JSONB(), nullable=False),
        sa.Column("max_runtime_s", sa.Double(), nullable=False),
        sa.Column("preemptible", sa.Boolean(), nullable=False),
        sa.Column("start_not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("after_ids", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("on_failed_dependency", sa.Text(), server_default="wait", nullable=False),
        sa.Column("limits", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("held_by", sa.Text(), nullable=True),
        sa.Column("held_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("held_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reuse", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("content_state", sa.Text(), server_default="none", nullable=False),
        sa.Column("wait_code", sa.Text(), nullable=True),
        sa.Column("waits_for", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "on_failed_dependency IN ('wait','cancel','run')", name=op.f("ck_queue_entries_on_failed_dependency")
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_queue_entries_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_queue_entries")),
    )
    op.create_table(
        "stage_keys",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("settings_key", sa.String(length=64), nullable=False),
        sa.Column("content_key", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_stage_keys_experiment_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_stage_keys_project_id")),
        sa.PrimaryKeyConstraint("experiment_id", "stage", name=op.f("pk_stage_keys")),
    )
    op.create_index("ix_stage_keys_settings", "stage_keys", ["project_id", "stage", "settings_key"], unique=False)
    op.create_table(
        "start_forecasts",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("predicted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_start_forecasts_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_start_forecasts")),
    )
    op.create_index(
        "ix_start_forecasts_started",
        "start_forecasts",
        ["started_at"],
        unique=False,
        postgresql_where=sa.text("started_at IS NOT NULL"),
    )
    op.create_table(
        "attempt_holdings",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("bundles", postgresql.JSONB(), nullable=False),
        sa.Column("rate", sa.Double(), nullable=False),
        sa.Column("penalty", sa.Double(), nullable=False),
        sa.Column("charged", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("charged_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("preempt_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("preempt_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("preempted_for", sa.Text(), nullable=True),
        sa.Column("preempt_heard_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("preempt_step", postgresql.JSONB(), nullable=True),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_attempt_holdings_attempt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_attempt_holdings_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_attempt_holdings_user_id")),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_attempt_holdings")),
    )
    op.create_table(
        "usage_records",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("num_cpus", sa.Double(), nullable=False),
        sa.Column("num_gpus", sa.Double(), nullable=False),
        sa.Column("rate", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_usage_records_attempt_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_usage_records_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_usage_records_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_records")),
    )
    op.create_index("ix_usage_records_project", "usage_records", ["project_id", "ended_at"], unique=False)
    op.add_column(
        "cluster_state", sa.Column("nodes", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False)
    )
    op.execute(_ENTRIES)


def downgrade() -> None:
    op.drop_column("cluster_state", "nodes")
    op.drop_index("ix_usage_records_project", table_name="usage_records")
    op.drop_table("usage_records")
    op.drop_table("attempt_holdings")
    op.drop_index(
        "ix_start_forecasts_started", table_name="start_forecasts", postgresql_where=sa.text("started_at IS NOT NULL")
    )
    op.drop_table("start_forecasts")
    op.drop_index("ix_stage_keys_settings", table_name="stage_keys")
    op.drop_table("stage_keys")
    op.drop_table("queue_entries")
    op.drop_table("output_sizes")
    op.drop_table("usage_totals")
    op.drop_table("quotas")
    op.drop_table("queue_snapshot")
    op.drop_table("queue_pauses")
    op.drop_table("maintenance_windows")
    op.drop_table("content_digests")
