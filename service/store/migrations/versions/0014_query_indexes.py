"""Add indexes for filtered lists of inspections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014_query_indexes"
down_revision = "0012_reviews"
branch_labels = None
depends_on = None

_STATION, _LOT = sa.text("station IS NOT NULL"), sa.text("lot IS NOT NULL")
_CLOCK_SET_SQLITE = sa.text(
    "substr(id, 1, 8) NOT BETWEEN "
    "printf('%08x', strftime('%s', created_at) * 1000 / 65536 - 2) AND "
    "printf('%08x', strftime('%s', created_at) * 1000 / 65536 + 2)"
)
_CLOCK_SET_POSTGRESQL = sa.text(
    "substr(id, 1, 8) NOT BETWEEN lpad(to_hex(CAST(floor(extract(epoch FROM created_at AT TIME ZONE 'UTC')"
    " * 1000 / 65536) AS bigint) - 2), 8, '0') AND lpad(to_hex(CAST(floor(extract(epoch FROM created_at"
    " AT TIME ZONE 'UTC') * 1000 / 65536) AS bigint) + 2), 8, '0')"
)
_INDEXES: tuple[tuple[str, list[str], sa.TextClause | None, sa.TextClause | None], ...] = (
    ("ix_inspections_decision_id", ["decision", "id"], None, None),
    ("ix_inspections_product_station_decision_id", ["product", "station", "decision", "id"], _STATION, _STATION),
    ("ix_inspections_station_decision_id", ["station", "decision", "id"], _STATION, _STATION),
    ("ix_inspections_lot_decision_id", ["lot", "decision", "id"], _LOT, _LOT),
    ("ix_inspections_product_score_id", ["product", "score", "id"], None, None),
    ("ix_inspections_clock_set", ["id"], _CLOCK_SET_SQLITE, _CLOCK_SET_POSTGRESQL),
)


def upgrade() -> None:
    """Apply this migration."""
    for name, columns, sqlite_where, postgresql_where in _INDEXES:
        op.create_index(name, "inspections", columns, sqlite_where=sqlite_where, postgresql_where=postgresql_where)


def downgrade() -> None:
    """Revert this migration."""
    for name, *_ in reversed(_INDEXES):
        op.drop_index(name, "inspections")
