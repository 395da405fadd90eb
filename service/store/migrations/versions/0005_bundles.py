"""Create the tables of bundle choices and of shadow verdicts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_bundles"
down_revision = "0004_area_and_filters"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "bundle_choices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=True),
        sa.Column("returns_to", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_bundle_choices"),
    )
    op.create_index("ix_bundle_choices_product_role_id", "bundle_choices", ["product", "role", "id"])
    op.create_table(
        "shadow_verdicts",
        sa.Column("inspection_id", sa.String(length=36), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("bundle_version", sa.String(length=12), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=False),
        sa.Column("fail_threshold", sa.Double(), nullable=False),
        sa.Column("review_threshold", sa.Double(), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("infer_ms", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("inspection_id", "bundle_digest", name="pk_shadow_verdicts"),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name="fk_shadow_verdicts_inspection_id", ondelete="CASCADE"
        ),
    )
    op.create_index(
        "ix_shadow_verdicts_bundle_version_inspection_id", "shadow_verdicts", ["bundle_version", "inspection_id"]
    )


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("shadow_verdicts")
    op.drop_table("bundle_choices")
