"""Create the tables of reviews and of the labels that follow from them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_reviews"
down_revision = "0013_outbox"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("inspection_id", sa.String(length=36), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reviewer", sa.String(length=128), nullable=False),
        sa.Column("label", sa.String(length=16), nullable=True),
        sa.Column("kind", sa.String(length=128), nullable=True),
        sa.Column("note", sa.String(length=1000), nullable=True),
        sa.Column("withdraws", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name="fk_reviews_inspection_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("withdraws", name="uq_reviews_withdraws"),
    )
    op.create_index("ix_reviews_inspection_id_id", "reviews", ["inspection_id", "id"])
    op.create_index("ix_reviews_product_id", "reviews", ["product", "id"])
    op.create_index("ix_reviews_product_reviewer_inspection_id", "reviews", ["product", "reviewer", "inspection_id"])
    op.create_table(
        "inspection_labels",
        sa.Column("inspection_id", sa.String(length=36), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=128), nullable=True),
        sa.PrimaryKeyConstraint("inspection_id", name="pk_inspection_labels"),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name="fk_inspection_labels_inspection_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_inspection_labels_label_inspection_id", "inspection_labels", ["label", "inspection_id"])
    op.create_index(
        "ix_inspection_labels_product_label_inspection_id", "inspection_labels", ["product", "label", "inspection_id"]
    )


def downgrade() -> None:
    """Revert this migration."""
    op.drop_table("inspection_labels")
    op.drop_table("reviews")
