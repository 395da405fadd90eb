"""Create the table of threshold proposals; add the proposal of an inspection."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_proposals"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "proposals",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("review_rate", sa.Double(), nullable=True),
        sa.Column("proposal", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_proposals"),
    )
    op.create_index("ix_proposals_product_id", "proposals", ["product", "id"])
    op.add_column("inspections", sa.Column("proposal_id", sa.String(length=36), nullable=True))


def downgrade() -> None:
    """Revert this migration."""
    op.drop_column("inspections", "proposal_id")
    op.drop_index("ix_proposals_product_id", "proposals")
    op.drop_table("proposals")
