"""The conversion of the table of inspections into partitions and back, on a real PostgreSQL server."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from benchmarks.partitions import (
    MONTH,
    REST,
    TABLE,
    Definitions,
    attach,
    drop,
    id_at,
    join,
    partitions,
    remove_in_pieces,
    split,
)
from benchmarks.query_pages import START, fill
from service.store.database import make_engine
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import list_inspections

ROWS = 1000
BOUNDS = [START + MONTH * number for number in range(14)]


def schema(engine: sa.Engine) -> dict[str, Any]:
    found = sa.inspect(engine)
    with engine.connect() as connection:
        referring = Definitions.of(connection).referring
    return {
        "columns": sorted(
            (each["name"], str(each["type"]), each["nullable"]) for each in found.get_columns("inspections")
        ),
        "indexes": sorted((str(each["name"]), str(each["column_names"])) for each in found.get_indexes(TABLE)),
        "key": found.get_pk_constraint(TABLE),
        # The inspector also lists a constraint per partition, which PostgreSQL keeps for itself.
        "referring": referring,
    }


def ids(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT id FROM inspections ORDER BY id")))


@pytest.mark.slow
def test_rows_and_schema_survive_the_way_to_partitions_and_back(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    fill(engine, ROWS)
    before, stored = schema(engine), ids(engine)
    newest = list_inspections(engine, InspectionFilter(product="washer"), before=None, limit=20)
    with engine.begin() as connection:
        attach(connection, START + 14 * MONTH, months=2)
        assert len(partitions(connection)) == 4, "the old table, two months, and the rest"
    assert (schema(engine), ids(engine)) == (before, stored)
    with engine.begin() as connection:
        join(connection)
        split(connection, BOUNDS)
        sizes = [connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) for name in partitions(connection)]  # noqa: S608
    assert sum(size or 0 for size in sizes) == ROWS
    assert sum(bool(size) for size in sizes) >= 12
    assert (schema(engine), ids(engine)) == (before, stored)
    assert list_inspections(engine, InspectionFilter(product="washer"), before=None, limit=20) == newest
    with engine.begin() as connection:
        join(connection)
    assert (schema(engine), ids(engine)) == (before, stored)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT relkind FROM pg_class WHERE relname = 'inspections'")) == "r"
    engine.dispose()


@pytest.mark.slow
def test_a_month_leaves_with_what_refers_to_it_and_a_wrong_clock_has_a_partition(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    fill(engine, ROWS)
    with engine.begin() as connection:
        split(connection, BOUNDS)
    begin, end = id_at(BOUNDS[2]), id_at(BOUNDS[3])
    inside = [each for each in ids(engine) if begin <= each < end]
    refer = sa.text(
        "INSERT INTO inspection_labels (inspection_id, product, label) VALUES (:inspection, 'washer', 'good')"
    )
    name = f"inspections_{BOUNDS[2]:%Y%m%d}"
    with engine.begin() as connection:
        connection.execute(refer, {"inspection": inside[0]})
    with engine.connect() as connection, pytest.raises(DBAPIError, match="foreign key"):
        connection.exec_driver_sql(f"ALTER TABLE inspections DETACH PARTITION {name}")
    with engine.begin() as connection:
        drop(connection, name, begin, end)
    left = ids(engine)
    assert len(left) == ROWS - len(inside)
    assert not set(inside) & set(left)
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM inspection_labels")) == 0
        moved = {"new": id_at(datetime.now(UTC) + timedelta(days=36_500)), "old": left[0]}
        connection.execute(sa.text("UPDATE inspections SET id = :new WHERE id = :old"), moved)
        assert connection.scalar(sa.text(f"SELECT count(*) FROM {REST}")) == 1  # noqa: S608
    engine.dispose()


@pytest.mark.slow
def test_rows_are_put_back_after_their_removal_in_pieces(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    fill(engine, ROWS)
    before = ids(engine)
    found = remove_in_pieces(engine, START + MONTH)
    assert found["wal_mb"] > 0
    assert 0 < found["longest_ms"] <= 1000 * found["seconds"]
    assert ids(engine) == before
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM record_removals")) == 0
    engine.dispose()
