"""Add the table of the bundles in the bundle store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018_bundles"
down_revision = "0017_training_findings"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "bundles",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("version", sa.String(12), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_bundles"),
        sa.UniqueConstraint("product", "version", name="uq_bundles_product_version"),
    )
    op.create_index("ix_bundles_product_created_at", "bundles", ["product", "created_at"])


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("bundles")
