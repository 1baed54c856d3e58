"""Studies, their amendments and their runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_EMPTY = sa.text("'{}'::jsonb")
_NOW = sa.text("now()")


def upgrade() -> None:
    _create_studies()
    op.create_table(
        "study_amendments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("change", postgresql.JSONB(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("kind IN ('add_seeds','add_arms','change_budget')", name=op.f("ck_study_amendments_kind")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_study_amendments_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_amendments")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_study_amendments_study_id_number")),
    )
    _create_runs()


def _create_studies() -> None:
    op.create_table(
        "studies",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(), nullable=False),
        sa.Column("plan", postgresql.JSONB(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("evidence", postgresql.JSONB(), server_default=_EMPTY, nullable=False),
        sa.Column("last_check", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("state_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "state IN ('running','paused','stopped','cancelled','finished')", name=op.f("ck_studies_state")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_studies_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_studies_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("user_id", "idempotency_key", name=op.f("uq_studies_user_id_idempotency_key")),
    )
    op.create_index(op.f("ix_studies_project_id"), "studies", ["project_id"])
    op.create_index(op.f("ix_studies_user_id"), "studies", ["user_id"])
    op.create_index("ix_studies_newest", "studies", [sa.text("created_at DESC"), sa.text("id DESC")])
    op.create_index("ix_studies_open", "studies", ["id"], postgresql_where=sa.text("state IN ('running','paused')"))


def _create_runs() -> None:
    op.create_table(
        "study_runs",
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("sft_seed", sa.Integer(), nullable=False),
        sa.Column("rl_seed", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("amendment", sa.Integer(), nullable=True),
        sa.Column("excluded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("excluded_by", sa.Text(), nullable=True),
        sa.Column("excluded_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(excluded_at IS NULL) = (excluded_by IS NULL) AND (excluded_at IS NULL) = (excluded_reason IS NULL)",
            name=op.f("ck_study_runs_exclusion"),
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_study_runs_experiment_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_study_runs_study_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["study_id", "amendment"],
            ["study_amendments.study_id", "study_amendments.number"],
            name=op.f("fk_study_runs_study_id_amendment"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("study_id", "position", name=op.f("pk_study_runs")),
        sa.UniqueConstraint("experiment_id", name=op.f("uq_study_runs_experiment_id")),
        sa.UniqueConstraint(
            "study_id", "arm", "sft_seed", "rl_seed", name=op.f("uq_study_runs_study_id_arm_sft_seed_rl_seed")
        ),
    )


def downgrade() -> None:
    op.drop_table("study_runs")
    op.drop_table("study_amendments")
    op.drop_table("studies")
