"""Failures counted by their kind, and when a run last moved."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0003"
branch_labels = None
depends_on = None

_EMPTY = sa.text("'{}'::jsonb")


def upgrade() -> None:
    op.add_column("experiments", sa.Column("failure_counts", postgresql.JSONB(), server_default=_EMPTY, nullable=False))
    op.add_column("attempts", sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "progress_at")
    op.drop_column("experiments", "failure_counts")
