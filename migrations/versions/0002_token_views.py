"""Token views: held-out samples token by token."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NUMBERS = postgresql.ARRAY(sa.REAL())


def upgrade() -> None:
    op.create_table(
        "token_views",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("sample_index", sa.Integer(), nullable=False),
        sa.Column("tokens", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("token_ids", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("label_probs", _NUMBERS, nullable=False),
        sa.Column("topk_masses", _NUMBERS, nullable=False),
        sa.Column("entropies", _NUMBERS, nullable=False),
        sa.Column("weights", _NUMBERS, nullable=False),
        sa.Column("tau", sa.REAL(), nullable=True),
        sa.Column("top_k", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_token_views_attempt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_token_views_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token_views")),
        sa.UniqueConstraint(
            "experiment_id",
            "stage",
            "step",
            "sample_index",
            name=op.f("uq_token_views_experiment_id_stage_step_sample_index"),
        ),
    )


def downgrade() -> None:
    op.drop_table("token_views")
