"""Add the table of the records of inspections that were removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021_record_removals"
down_revision = "0020_schema_compatibility"
branch_labels = None
depends_on = None
kind = "expand"


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "record_removals",
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("removed_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed", sa.BigInteger(), nullable=False),
        sa.Column("audited", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("product", name="pk_record_removals"),
    )


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("record_removals")
