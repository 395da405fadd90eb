"""Add the tables of drift, and whether the guarantee was suspended to inspections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015_drift"
down_revision = "0014_query_indexes"
branch_labels = None
depends_on = None

_OPEN = sa.text("acknowledged_at IS NULL AND ended_at IS NULL")


def upgrade() -> None:
    """Apply this migration."""
    op.add_column("inspections", sa.Column("suspended", sa.Boolean(), nullable=True))
    op.create_table(
        "drift_position",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("inspection_id", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_drift_position"),
    )
    op.create_table(
        "drift_streams",
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("station", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("recipe_revision", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("reference_count", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("evidence", sa.Double(), nullable=False),
        sa.Column("direction", sa.String(16), nullable=True),
        sa.Column("onset_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("alarm_id", sa.BigInteger(), nullable=True),
        sa.Column("reference_values", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("product", "station", "kind", name="pk_drift_streams"),
    )
    op.create_table(
        "drift_alarms",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("station", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("direction", sa.String(16), nullable=True),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("recipe_revision", sa.Integer(), nullable=False),
        sa.Column("raised_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("onset_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("evidence", sa.Double(), nullable=False),
        sa.Column("suspends", sa.Boolean(), nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.String(128), nullable=True),
        sa.Column("reason", sa.String(1000), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_drift_alarms"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_drift_alarms_product_id", "drift_alarms", ["product", "id"])
    op.create_index("ix_drift_alarms_open", "drift_alarms", ["id"], sqlite_where=_OPEN, postgresql_where=_OPEN)


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("drift_alarms")
    op.drop_table("drift_streams")
    op.drop_table("drift_position")
    op.drop_column("inspections", "suspended")
