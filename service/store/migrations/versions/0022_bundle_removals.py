"""Add the table of the bundles that were removed from the bundle store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022_bundle_removals"
down_revision = "0021_record_removals"
branch_labels = None
depends_on = None
kind = "expand"


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "bundle_removals",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("product", sa.String(64), nullable=True),
        sa.Column("removals", sa.Integer(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_by", sa.String(128), nullable=False),
        sa.Column("files_removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("digest", name="pk_bundle_removals"),
    )


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("bundle_removals")
