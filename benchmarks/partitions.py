"""Measure the table of inspections of PostgreSQL in partitions by time against the table as it is.

    python -m benchmarks.partitions --rows 1000000

Ids are UUIDv7, so a range of ids is a range of times and the primary key stays `id`. On a server of the installed
version, with generated inspections of one year (`benchmarks.query_pages`), this measures:

- `attach_s`: the conversion that keeps the existing table as the first partition, without copying rows, and
  `split_s`: the one that copies them;
- pages of filtered lists in one table and in partitions of one month each, and 1000 inserts of 25 per transaction;
- the removal of one month, with the write-ahead log: `DELETE` in one table, `DETACH` with `DROP` of a partition, and
  the small transactions of the service (`service.store.record_removal`), without its pauses, with the longest of them.

The service does not use partitions: this examines whether it could. Prints JSON.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import Connection, Engine, text

from benchmarks.inspection_costs import wal_position
from benchmarks.marked_section import write_section
from benchmarks.query_pages import SPAN, START, fill, filters, insert_cost, measure
from benchmarks.routing import SCALE
from service.store.database import make_engine, migrate
from service.store.record_removal.pieces import old_records, remove_piece, stored_products
from tests.postgres import postgres_process

TABLE = "inspections"
BEFORE = "inspections_before"
PARTITIONED = "inspections_partitioned"  # the former table, while it is made one table again
REST = "inspections_rest"
MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Definitions:
    """What a new table gets from the present one, as SQL.

    Attributes:
        key: Name of the primary key.
        indexes: Name and definition of each index.
        referring: Table, name and definition of each foreign key that refers to it.
    """

    key: str
    indexes: tuple[tuple[str, str], ...]
    referring: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, connection: Connection) -> Definitions:
        """Read the definitions."""
        relation = f"'{TABLE}'::regclass"
        key = f"SELECT conname FROM pg_constraint WHERE conrelid = {relation} AND contype = 'p'"  # noqa: S608
        foreign = (
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "  # noqa: S608
            f"WHERE confrelid = {relation} AND contype = 'f' AND conparentid = 0 ORDER BY conname"
        )
        name = str(connection.execute(text(key)).scalar_one())
        indexes = f"SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{TABLE}' AND indexname <> '{name}'"  # noqa: S608
        return cls(
            name,
            tuple((str(each), str(definition)) for each, definition in connection.execute(text(indexes))),
            tuple((str(a), str(b), str(c)) for a, b, c in connection.execute(text(foreign))),
        )


def id_at(moment: datetime) -> str:
    """Return the smallest id of an inspection at a time."""
    return str(UUID(int=int(moment.timestamp() * 1000) << 80))


def attach(connection: Connection, first: datetime, months: int) -> None:
    """Make the table partitioned, with the present table as its first partition. No row is copied.

    Args:
        connection: In a transaction.
        first: End of the first partition, after the newest inspection.
        months: Number of further partitions.
    """
    found = _begin(connection, BEFORE)
    _add_indexes(connection, found)  # those of the former table become parts of them instead of being made again
    bound = id_at(first)
    connection.exec_driver_sql(f"ALTER TABLE {BEFORE} ADD CONSTRAINT before_first CHECK (id < '{bound}')")
    connection.exec_driver_sql(
        f"ALTER TABLE {TABLE} ATTACH PARTITION {BEFORE} FOR VALUES FROM (MINVALUE) TO ('{bound}')"
    )
    _add_months(connection, [first + MONTH * number for number in range(months + 1)])
    _add_references(connection, found)


def split(connection: Connection, bounds: Sequence[datetime]) -> None:
    """Make the table partitioned and copy its rows into the partitions between these times.

    Args:
        connection: In a transaction.
        bounds: Begin of each partition, and the end of the last one. Other rows are in the default partition.
    """
    found = _begin(connection, BEFORE)
    _add_months(connection, bounds)
    connection.exec_driver_sql(f"INSERT INTO {TABLE} SELECT * FROM {BEFORE}")  # noqa: S608
    connection.exec_driver_sql(f"DROP TABLE {BEFORE}")
    _add_indexes(connection, found)
    _add_references(connection, found)


def join(connection: Connection) -> None:
    """Make one table of the partitions again. All rows are copied."""
    found = _begin(connection, PARTITIONED)
    connection.exec_driver_sql(f"INSERT INTO {TABLE} SELECT * FROM {PARTITIONED}")  # noqa: S608
    connection.exec_driver_sql(f"DROP TABLE {PARTITIONED}")
    _add_indexes(connection, found)
    _add_references(connection, found)


def partitions(connection: Connection) -> list[str]:
    """Return the names of the partitions."""
    query = f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{TABLE}'::regclass ORDER BY 1"  # noqa: S608
    return [str(name) for name in connection.scalars(text(query))]


def drop(connection: Connection, name: str, begin: str, end: str) -> None:
    """Remove a partition, and the rows that refer to its inspections: a partition that is referred to cannot leave."""
    for table, _, _ in Definitions.of(connection).referring:
        statement = f"DELETE FROM {table} WHERE inspection_id >= '{begin}' AND inspection_id < '{end}'"  # noqa: S608
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"ALTER TABLE {TABLE} DETACH PARTITION {name}")
    connection.exec_driver_sql(f"DROP TABLE {name}")


def _begin(connection: Connection, renamed: str) -> Definitions:
    """Rename the present table, with its key and indexes, and create an empty one with the same columns and key."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
    found = Definitions.of(connection)
    suffix = renamed.removeprefix(TABLE)
    for table, name, _ in found.referring:
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for name, _ in found.indexes:
        connection.exec_driver_sql(f"ALTER INDEX {name} RENAME TO {name}{suffix}")
    connection.exec_driver_sql(f"ALTER TABLE {TABLE} RENAME CONSTRAINT {found.key} TO {found.key}{suffix}")
    connection.exec_driver_sql(f"ALTER TABLE {TABLE} RENAME TO {renamed}")
    by = "PARTITION BY RANGE (id)" if renamed == BEFORE else ""
    connection.exec_driver_sql(f"CREATE TABLE {TABLE} (LIKE {renamed} INCLUDING DEFAULTS) {by}")
    connection.exec_driver_sql(f"ALTER TABLE {TABLE} ADD CONSTRAINT {found.key} PRIMARY KEY (id)")
    return found


def _add_indexes(connection: Connection, found: Definitions) -> None:
    """Create the indexes. After the rows are copied it takes a fraction of the time."""
    for _, definition in found.indexes:
        # A definition of a partitioned table says ONLY, which would leave the partitions without the index.
        connection.exec_driver_sql(definition.replace(" ON ONLY ", " ON "))


def _add_months(connection: Connection, bounds: Sequence[datetime]) -> None:
    for begin, end in itertools.pairwise(bounds):
        values = f"FROM ('{id_at(begin)}') TO ('{id_at(end)}')"
        connection.exec_driver_sql(f"CREATE TABLE {TABLE}_{begin:%Y%m%d} PARTITION OF {TABLE} FOR VALUES {values}")
    # A clock that is set wrong makes ids of any time; without a default partition their inspections would be refused.
    connection.exec_driver_sql(f"CREATE TABLE {REST} PARTITION OF {TABLE} DEFAULT")


def _add_references(connection: Connection, found: Definitions) -> None:
    for table, name, definition in found.referring:
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


def _pages(engine: Engine, count: int, repeats: int) -> dict[str, Any]:
    """Return the durations of pages, in milliseconds."""
    moments = [START + SPAN * (number + 0.5) / repeats for number in range(repeats)]
    cursors = [UUID(id_at(moment)) for moment in moments]
    found = {
        f"{name}, {where}": measure(engine, which, starts)
        for name, which in filters(count).items()
        for where, starts in (("first page", [None] * repeats), ("any page", cursors))
    }
    worst = max(found, key=lambda name: found[name].p50_ms)
    return {
        "median_of_p50_ms": round(median(each.p50_ms for each in found.values()), 2),
        "largest_p50_ms": round(found[worst].p50_ms, 2),
        "largest_p50": worst,
    }


def _removal(engine: Engine, action: Callable[[Connection], None], *, keep: bool) -> dict[str, float]:
    """Return seconds and write-ahead log of an action, which is rolled back if `keep` is set."""
    wal, started = wal_position(engine), time.perf_counter()
    with engine.connect() as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        action(connection)
        connection.rollback() if keep else connection.commit()
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 3), "wal_mb": round((wal_position(engine) - wal) / 1e6, 2)}


def remove_in_pieces(engine: Engine, end: datetime) -> dict[str, float]:
    """Remove the inspections from before a time as the service does, and put them back.

    Returns:
        Seconds without the pauses of the service, the longest transaction in milliseconds, and the write-ahead log.
    """
    old = f"FROM {TABLE} WHERE id < '{id_at(end)}'"
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql(f"CREATE TABLE removed_rows AS SELECT * {old}")
        changed = f"UPDATE {TABLE} SET artefacts_removed_at = created_at WHERE id < '{id_at(end)}'"  # noqa: S608
        connection.exec_driver_sql(changed)
    _vacuum(engine)
    wal, started, longest_s = wal_position(engine), time.perf_counter(), 0.0
    for product in stored_products(engine):
        for piece in old_records(engine, product, end):
            before = time.perf_counter()
            remove_piece(engine, piece)
            longest_s = max(longest_s, time.perf_counter() - before)
    seconds, wal = time.perf_counter() - started, wal_position(engine) - wal
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql(f"INSERT INTO {TABLE} SELECT * FROM removed_rows")  # noqa: S608
        connection.exec_driver_sql("DROP TABLE removed_rows")
        connection.exec_driver_sql("DELETE FROM record_removals")
    _vacuum(engine)
    return {"seconds": round(seconds, 3), "longest_ms": round(longest_s * 1000, 1), "wal_mb": round(wal / 1e6, 2)}


def _vacuum(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("VACUUM ANALYZE")


def compare(engine: Engine, rows: int, repeats: int) -> dict[str, Any]:
    """Fill a database, and measure it before and after the conversion. Report each step on standard error.

    Args:
        engine: An empty PostgreSQL database with the schema of the service.
        rows: Number of inspections.
        repeats: Pages per combination of filters.
    """
    begin, end = START + 2 * MONTH, START + 3 * MONTH
    first, last = id_at(begin), id_at(end)
    with _step("fill the table"):
        fill(engine, rows)
    with _step("pages and inserts of one table"):
        one = _pages(engine, rows, repeats) | {"inserts_1000_ms": round(insert_cost(engine, 1), 1)}
    delete = f"DELETE FROM {TABLE} WHERE id >= '{first}' AND id < '{last}'"  # noqa: S608
    with _step("remove a month with one DELETE, and roll back"):
        one["month"] = _removal(engine, lambda connection: _execute(connection, delete), keep=True)
        _vacuum(engine)
    with _step("remove a month in the transactions of the service, and put it back"):
        one["pieces"] = remove_in_pieces(engine, START + MONTH)
    newest = datetime.now(UTC).replace(year=START.year + 2)
    with _step("attach the table as the first partition, and roll back"):
        attached = _removal(engine, lambda connection: attach(connection, newest, months=3), keep=True)
    with _step("copy the rows into partitions") as copied, engine.begin() as connection:
        split(connection, [START + MONTH * number for number in range(14)])
    with _step("vacuum"):
        _vacuum(engine)
    with _step("pages and inserts of partitions"):
        many = _pages(engine, rows, repeats) | {"inserts_1000_ms": round(insert_cost(engine, 2), 1)}
    name = f"{TABLE}_{begin:%Y%m%d}"
    with _step("drop a month"):
        many["month"] = _removal(engine, lambda connection: drop(connection, name, first, last), keep=False)
    return {
        "rows": rows, "table": one, "partitions": many, "attach_s": attached["seconds"], "split_s": copied.seconds
    }  # fmt: skip


@dataclass
class _Step:
    seconds: float = 0.0


@contextmanager
def _step(name: str) -> Iterator[_Step]:
    """Report the begin and the duration of a step on standard error: with 10 million rows some take many minutes."""
    typer.echo(f"{name} ...", err=True)
    step, started = _Step(), time.perf_counter()
    yield step
    step.seconds = round(time.perf_counter() - started, 2)
    typer.echo(f"{name}: {step.seconds} s", err=True)


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Number of inspections.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=2, help="Pages per combination of filters.")] = 10,
    shared_buffers: Annotated[str, typer.Option(help="Memory of PostgreSQL's own cache.")] = "1GB",
    *,
    write: Annotated[bool, typer.Option("--write", help="Write the table into docs/scale.md.")] = False,
) -> None:
    """Compare one table with partitions."""
    with postgres_process(is_durable=True, shared_buffers=shared_buffers) as server, server.database() as url:
        engine = make_engine(url)
        migrate(engine)
        report = {"shared_buffers": shared_buffers, **compare(engine, rows, repeats)}
        engine.dispose()
    typer.echo(json.dumps(report, indent=2))
    if write:
        write_section("partitions", table(report), SCALE)


def table(report: Mapping[str, Any]) -> str:
    """Format a report as Markdown."""
    one, many = report["table"], report["partitions"]
    title = f"{report['rows']:,} rows, PostgreSQL, {report['shared_buffers']} of shared buffers"
    rows = [
        (title, "one table", "partitions of 30 days"),
        ("page of a list, median of the medians of all filters, ms", one["median_of_p50_ms"], many["median_of_p50_ms"]),
        ("the slowest filter, median, ms", one["largest_p50_ms"], many["largest_p50_ms"]),
        ("1000 inserts, 25 per transaction, ms", one["inserts_1000_ms"], many["inserts_1000_ms"]),
        ("remove a month: `DELETE`, `DETACH` and `DROP`, s", one["month"]["seconds"], many["month"]["seconds"]),
        ("write-ahead log of that, MB", one["month"]["wal_mb"], many["month"]["wal_mb"]),
        ("remove a month in the transactions of the service, without its pauses, s", one["pieces"]["seconds"], "–"),
        ("the longest of them, ms", one["pieces"]["longest_ms"], "–"),
        ("write-ahead log of that, MB", one["pieces"]["wal_mb"], "–"),
        ("convert: existing table as first partition, rows copied, s", report["attach_s"], report["split_s"]),
    ]  # fmt: skip
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|---|---:|---:|", *lines[1:]])


def _execute(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)


if __name__ == "__main__":
    typer.run(main)
