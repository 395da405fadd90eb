"""Create the append-only audit log, and add the size of the files of an inspection, which retention limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010_audit_log"
down_revision = "0011_idempotency"
branch_labels = None
depends_on = None

_KEPT = sa.text("artefacts_removed_at IS NULL")
_KEPT_INDEX = "ix_inspections_kept"
# REPLACE deletes rows without firing delete triggers; the trigger on INSERT refuses it, because the id exists.
_SQLITE = """
CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END
---
CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END
---
CREATE TRIGGER audit_log_no_gap BEFORE INSERT ON audit_log
WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM audit_log)
BEGIN SELECT RAISE(ABORT, 'audit_log has no entry between the newest one and this one'); END
"""
_POSTGRESQL = """
CREATE FUNCTION audit_log_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'audit_log is append-only'; END
$$
---
CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE ON audit_log
FOR EACH ROW EXECUTE FUNCTION audit_log_append_only()
---
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION audit_log_append_only()
"""


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor_kind", sa.String(length=16), nullable=False),
        sa.Column("actor_id", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=True),
        sa.Column("object", sa.String(length=200), nullable=True),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_product_id", "audit_log", ["product", "id"])
    triggers = _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL
    for statement in triggers.split("---"):
        op.execute(statement)
    op.add_column("inspections", sa.Column("artefact_bytes", sa.BigInteger(), nullable=True))
    # The size of the maps of older inspections is not known.
    op.execute("UPDATE inspections SET artefact_bytes = image_bytes WHERE artefacts_removed_at IS NULL")
    op.drop_index(_KEPT_INDEX, "inspections")
    columns = ["product", "decision", "id", "artefact_bytes"]
    op.create_index(_KEPT_INDEX, "inspections", columns, sqlite_where=_KEPT, postgresql_where=_KEPT)


def downgrade() -> None:
    """Revert this migration."""
    op.drop_index(_KEPT_INDEX, "inspections")
    op.drop_column("inspections", "artefact_bytes")
    columns = ["product", "decision", "id"]
    op.create_index(_KEPT_INDEX, "inspections", columns, sqlite_where=_KEPT, postgresql_where=_KEPT)
    op.drop_table("audit_log")  # with its triggers
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_log_append_only()")
