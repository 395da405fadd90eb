"""Migrations on SQLite and PostgreSQL: up and down from every revision, with rows in the tables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.store.database import _migrating, _upgrade, make_engine
from service.store.models import Base
from service.store.schema import MIGRATIONS
from tests.databases import migrated_engine

REVISIONS = [script.revision for script in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]
VALUES: list[tuple[type[Any], Any]] = [
    (sa.String, "x"),
    (sa.Boolean, True),
    (sa.Integer, 1),
    (sa.Double, 0.5),
    (sa.REAL, 0.5),
    (sa.DateTime, datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
    (sa.JSON, {"a": [1]}),
    (sa.LargeBinary, b"x"),
]


def value_of(column: sa.Column[Any]) -> Any:
    for kind, value in VALUES:
        if isinstance(column.type, kind):
            return value
    raise AssertionError(f"no value for {column}: {column.type!r}")


def tables_of(engine: sa.Engine) -> list[sa.Table]:
    found = sa.MetaData()
    found.reflect(engine)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def add_rows(engine: sa.Engine) -> None:
    """Add a row with a value in every column to each table that has none."""
    with engine.begin() as connection:
        for table in tables_of(engine):
            if connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0:
                connection.execute(table.insert(), {column.name: value_of(column) for column in table.c})


def rows(engine: sa.Engine) -> dict[str, int]:
    with engine.connect() as connection:
        tables = tables_of(engine)
        counts = {table.name: connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables}
        return {name: count or 0 for name, count in counts.items()}


def schema(engine: sa.Engine) -> dict[str, Any]:
    found = sa.inspect(engine)
    return {
        table: {
            "columns": sorted(
                (column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)
            ),
            "indexes": sorted((str(index["name"]), index["column_names"]) for index in found.get_indexes(table)),
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "unique": sorted(str(item["name"]) for item in found.get_unique_constraints(table)),
            "foreign": sorted(str(item["name"]) for item in found.get_foreign_keys(table)),
        }
        for table in found.get_table_names()
    }


def downgrade(engine: sa.Engine, revision: str) -> None:
    with _migrating(engine) as config:
        command.downgrade(config, revision)


@pytest.mark.parametrize("revision", REVISIONS)
def test_rows_survive_the_way_up_from_a_revision_and_down_to_it(empty_database_url: str, revision: str) -> None:
    engine = make_engine(empty_database_url)
    _upgrade(engine, revision)
    before = schema(engine)
    add_rows(engine)
    old = rows(engine)
    assert set(old.values()) == {1}
    _upgrade(engine)
    newest = schema(engine)
    assert {name: count for name, count in rows(engine).items() if name in old} == old
    add_rows(engine)
    downgrade(engine, revision)
    assert schema(engine) == before
    assert rows(engine) == old
    _upgrade(engine)
    assert schema(engine) == newest
    engine.dispose()


def test_all_migrations_can_be_reverted(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    _upgrade(engine)
    add_rows(engine)
    downgrade(engine, "base")
    assert rows(engine) == {}
    engine.dispose()


def test_migrations_create_the_tables_of_the_models(empty_database_url: str) -> None:
    engine = migrated_engine(empty_database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_processes_that_start_together_migrate_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(lambda _: migrated_engine(empty_database_url), range(4)))
    assert len(rows(engines[0])) >= 5
    for engine in engines:
        engine.dispose()


def test_failed_migration_is_rolled_back(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        # The second table cannot be created, as if the process were killed at this moment.
        patch.setattr("alembic.op.create_index", fail)
        engine = make_engine(empty_database_url)
        with pytest.raises(RuntimeError, match="killed here"):
            _upgrade(engine)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    migrated_engine(empty_database_url).dispose()
