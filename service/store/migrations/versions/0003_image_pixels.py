"""Add how the bytes of an image are interpreted, where the bytes alone do not define it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_image_pixels"
down_revision = "0002_proposals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.add_column("inspections", sa.Column("image_pixels", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Revert this migration."""
    op.drop_column("inspections", "image_pixels")
