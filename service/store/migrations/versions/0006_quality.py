"""Allow inspections without a score (decision `invalid`); add quality measures and objections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_quality"
down_revision = "0005_bundles"
branch_labels = None
depends_on = None

_NUMBERS = ("score", "p_value")


def upgrade() -> None:
    """Apply this migration."""
    with op.batch_alter_table("inspections") as batch:
        batch.add_column(sa.Column("quality", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("objections", sa.JSON(), nullable=True))
        for name in _NUMBERS:
            batch.alter_column(name, existing_type=sa.Double(), nullable=True)


def downgrade() -> None:
    """Revert this migration."""
    op.execute("DELETE FROM inspections WHERE score IS NULL")
    with op.batch_alter_table("inspections") as batch:
        for name in _NUMBERS:
            batch.alter_column(name, existing_type=sa.Double(), nullable=False)
        batch.drop_column("objections")
        batch.drop_column("quality")
