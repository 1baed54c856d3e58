"""What the cluster's largest nodes have, and memory where Ray tells it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = ("node_num_cpus", "node_num_gpus", "node_memory_bytes", "memory_bytes", "gpu_memory_bytes")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("cluster_state", sa.Column(name, sa.Float(), nullable=True))


def downgrade() -> None:
    for name in reversed(_COLUMNS):
        op.drop_column("cluster_state", name)
