"""Create the tables of inspections and recipes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "inspections",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=False),
        sa.Column("fail_threshold", sa.Double(), nullable=False),
        sa.Column("review_threshold", sa.Double(), nullable=False),
        sa.Column("target_false_reject_rate", sa.Double(), nullable=True),
        sa.Column("certified", sa.Boolean(), nullable=False),
        sa.Column("calibration_count", sa.Integer(), nullable=False),
        sa.Column("heatmap_low", sa.Double(), nullable=False),
        sa.Column("heatmap_high", sa.Double(), nullable=False),
        sa.Column("regions", sa.JSON(), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("bundle_version", sa.String(length=12), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("recipe_revision", sa.Integer(), nullable=False),
        sa.Column("image_media_type", sa.String(length=64), nullable=False),
        sa.Column("image_width", sa.Integer(), nullable=False),
        sa.Column("image_height", sa.Integer(), nullable=False),
        sa.Column("image_bytes", sa.Integer(), nullable=False),
        sa.Column("image_sha256", sa.String(length=64), nullable=False),
        sa.Column("timings_ms", sa.JSON(), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("part_id", sa.String(length=128), nullable=True),
        sa.Column("station", sa.String(length=128), nullable=True),
        sa.Column("lot", sa.String(length=128), nullable=True),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("traceparent", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_inspections"),
    )
    op.create_index("ix_inspections_product_id", "inspections", ["product", "id"])
    op.create_index("ix_inspections_product_decision_id", "inspections", ["product", "decision", "id"])
    op.create_index("ix_inspections_part_id_id", "inspections", ["part_id", "id"])
    op.create_table(
        "recipes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_recipes"),
        sa.UniqueConstraint("product", "revision", name="uq_recipes_product_revision"),
    )


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("recipes")
    op.drop_table("inspections")
