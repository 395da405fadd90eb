"""Add what training found about the images of a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017_training_findings"
down_revision = "0016_training_jobs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.add_column("training_jobs", sa.Column("findings", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Revert this migration."""
    op.drop_column("training_jobs", "findings")
