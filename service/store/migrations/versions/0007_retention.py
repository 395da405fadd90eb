"""When retention removed an inspection's image and map, and an index over those that still have them."""

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
    op.add_column("inspections", sa.Column("artefacts_removed_at", sa.DateTime(timezone=True), nullable=True))
    columns = ["product", "decision", "id"]
    op.create_index(_INDEX, "inspections", columns, sqlite_where=_KEPT, postgresql_where=_KEPT)


def downgrade() -> None:
    op.drop_index(_INDEX, "inspections")
    op.drop_column("inspections", "artefacts_removed_at")
