"""Add indexes on the time of inspections, which queries by time and retention compare."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_time_indexes"
down_revision = "0007_retention"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    kept = sa.text("artefacts_removed_at IS NULL")
    op.create_index(
        "ix_inspections_kept_time",
        "inspections",
        ["product", "decision", "created_at"],
        sqlite_where=kept,
        postgresql_where=kept,
    )
    op.create_index("ix_inspections_product_created_at", "inspections", ["product", "created_at"])


def downgrade() -> None:
    """Revert this migration."""
    op.drop_index("ix_inspections_product_created_at", "inspections")
    op.drop_index("ix_inspections_kept_time", "inspections")
