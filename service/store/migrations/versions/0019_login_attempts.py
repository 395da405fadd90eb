"""Add the table of attempts to log in, whose limits several processes share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019_login_attempts"
down_revision = "0018_bundles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "login_attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(16), nullable=False),
        sa.Column("client", sa.String(16), nullable=False),
        sa.Column("password", sa.String(16), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_settled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_login_attempts"),
    )
    for column in ("account", "client", "tried_at"):
        op.create_index(f"ix_login_attempts_{column}", "login_attempts", [column])


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("login_attempts")
