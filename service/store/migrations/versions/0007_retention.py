"""Add when retention removed the artefacts of an inspection, and a partial index of those still stored."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_retention"
down_revision = "0006_quality"
branch_labels = None
depends_on = None

_INDEX = "ix_inspections_kept"
_KEPT = sa.text("artefacts_removed_at IS NULL")


def upgrade() -> None:
    """Apply this migration."""
    op.add_column("inspections", sa.Column("artefacts_removed_at", sa.DateTime(timezone=True), nullable=True))
    columns = ["product", "decision", "id"]
    op.create_index(_INDEX, "inspections", columns, sqlite_where=_KEPT, postgresql_where=_KEPT)


def downgrade() -> None:
    """Revert this migration."""
    op.drop_index(_INDEX, "inspections")
    op.drop_column("inspections", "artefacts_removed_at")
