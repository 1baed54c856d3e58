"""Objective and description of experiments as columns of their own, for lists."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    objective = sa.Computed("spec #>> '{sft,objective,type}'", persisted=True)
    op.add_column("experiments", sa.Column("objective", sa.Text(), objective, nullable=True))
    op.add_column("experiments", sa.Column("description", sa.Text(), sa.Computed("spec ->> 'description'", persisted=True), nullable=True))
    op.create_index(
        "ix_experiments_objective", "experiments", ["objective", sa.text("submitted_at DESC"), sa.text("id DESC")]
    )


def downgrade() -> None:
    op.drop_index("ix_experiments_objective", table_name="experiments")
    op.drop_column("experiments", "description")
    op.drop_column("experiments", "objective")
