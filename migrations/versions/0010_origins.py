"""What was submitted word for word, and which experiment it was a copy of."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "experiment_origins",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("submitted", sa.JSON(), nullable=False),
        sa.Column("cloned_from", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_experiment_origins_experiment_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["cloned_from"], ["experiments.id"], name=op.f("fk_experiment_origins_cloned_from"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_experiment_origins")),
    )
    op.create_index(op.f("ix_experiment_origins_cloned_from"), "experiment_origins", ["cloned_from"])


def downgrade() -> None:
    op.drop_table("experiment_origins")
