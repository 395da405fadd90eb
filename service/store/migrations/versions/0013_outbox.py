"""Add the outbox: messages to sinks that are not delivered yet, and dead letters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_outbox"
down_revision = "0010_audit_log"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sink", sa.String(64), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("inspection_id", sa.String(36), nullable=False),
        sa.Column("event_id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("rejections", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.String(500), nullable=True),
        sa.Column("dead_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dead_reason", sa.String(16), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )
    pending, dead = sa.text("dead_at IS NULL"), sa.text("dead_at IS NOT NULL")
    op.create_index(
        "ix_outbox_pending", "outbox", ["sink", "product", "id"], sqlite_where=pending, postgresql_where=pending
    )
    op.create_index("ix_outbox_dead", "outbox", ["sink", "id"], sqlite_where=dead, postgresql_where=dead)


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("outbox")
