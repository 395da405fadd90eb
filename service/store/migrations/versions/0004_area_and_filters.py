"""Add the inspected share of an image and the effect of region filters on the verdict."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_area_and_filters"
down_revision = "0003_image_pixels"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    # NULL for older inspections: all of the image was inspected, and no region was dropped.
    op.add_column("inspections", sa.Column("by_score", sa.String(length=16), nullable=True))
    op.add_column("inspections", sa.Column("dropped_regions", sa.JSON(), nullable=True))
    op.add_column("inspections", sa.Column("judged_share", sa.Double(), nullable=True))


def downgrade() -> None:
    """Revert this migration."""
    for column in ("judged_share", "dropped_regions", "by_score"):
        op.drop_column("inspections", column)
