"""Create the table that states which programs can work with the schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020_schema_compatibility"
down_revision = "0019_login_attempts"
branch_labels = None
depends_on = None
kind = "expand"


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "schema_compatibility",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("oldest_revision", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schema_compatibility"),
    )


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("schema_compatibility")
