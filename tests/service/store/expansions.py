"""What a migration does to the programs of the release before: `objections` is empty for an expansion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

# Alembic's own, and the one that migrations write.
_OWN = {"alembic_version", "schema_compatibility"}
_HARMLESS_DELETES = {"CASCADE", "SET NULL"}
_CHANGE_OF_ROWS = re.compile(r"^(UPDATE|DELETE FROM|INSERT INTO|TRUNCATE(?: TABLE)?)\s+\"?(\w+)", re.IGNORECASE)
_INDEX = re.compile(r"^CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*? ON \"?(\w+)", re.IGNORECASE)

Column = tuple[str, bool, str | None]
"""Type, whether it may be NULL, and the default of the server."""


@dataclass
class Table:
    """A table as the database describes it.

    Attributes:
        columns: The columns by name.
        rules: Keys, indexes, constraints and triggers that refuse or change rows, and indexes that statements name.
        foreign: The tables that foreign keys refer to, with what happens if such a row is deleted.
        file: Number of the file with the rows, in PostgreSQL. It changes if all rows are written again.
    """

    columns: dict[str, Column]
    rules: set[str]
    foreign: set[tuple[str, str]]
    file: int = 0


@dataclass
class Snapshot:
    """The tables of a database, by name."""

    tables: dict[str, Table] = field(default_factory=dict)

    @classmethod
    def of(cls, connection: sa.Connection) -> Snapshot:
        """Read the tables."""
        found = sa.inspect(connection)
        is_sqlite = connection.dialect.name == "sqlite"
        triggers = (
            "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
            if is_sqlite
            else "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal"
        )
        tables = {name: _table(found, name) for name in found.get_table_names() if name not in _OWN}
        for trigger, table in connection.execute(sa.text(triggers)):
            tables[table].rules.add(f"trigger {trigger}")
        if not is_sqlite:
            for table, file in connection.execute(sa.text("SELECT relname, relfilenode FROM pg_class")):
                if table in tables:
                    tables[table].file = file
        return cls(tables)


def objections(connection: sa.Connection, upgrade: Callable[[], None]) -> list[str]:
    """Run a migration, and return what the programs of the release before it would notice.

    They read and write the old tables and columns while it runs and afterwards, and know nothing of new ones.

    Args:
        connection: A database before the migration, in a transaction.
        upgrade: The function of the migration.
    """
    before, statements = Snapshot.of(connection), list[str]()

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(" ".join(statement.split()))

    sa.event.listen(connection, "before_cursor_execute", record)
    with Operations.context(MigrationContext.configure(connection, opts={"render_as_batch": True})):
        upgrade()
    sa.event.remove(connection, "before_cursor_execute", record)
    found = list(_changes(before, Snapshot.of(connection)))
    # SQLite alters a table by copying it. It has one process, so no statement of another one waits.
    if connection.dialect.name != "sqlite":
        found += _of_statements(statements, set(before.tables))
    return found


def _table(found: sa.Inspector, name: str) -> Table:
    columns = {
        column["name"]: (str(column["type"]), column["nullable"], column["default"])
        for column in found.get_columns(name)
    }
    rules = {f"primary key {found.get_pk_constraint(name)['constrained_columns']}"}
    rules |= {f"check {item['sqltext']}" for item in found.get_check_constraints(name)}
    rules |= {f"unique constraint {item['column_names']}" for item in found.get_unique_constraints(name)}
    for index in found.get_indexes(name):
        where = [str(value) for key, value in index.get("dialect_options", {}).items() if key.endswith("where")]
        kind = "unique index" if index["unique"] else "index"
        rules.add(f"{kind} {index['name']} {index['column_names']} {where}")
    keys = found.get_foreign_keys(name)
    rules |= {f"foreign key {key['constrained_columns']} {key['referred_table']}" for key in keys}
    return Table(columns, rules, {(key["referred_table"], key["options"].get("ondelete", "")) for key in keys})


def _changes(before: Snapshot, after: Snapshot) -> Iterator[str]:
    for name, old in before.tables.items():
        new = after.tables.get(name)
        if new is None:
            yield f"the table {name} is removed or renamed"
            continue
        yield from _changes_of_columns(name, old.columns, new.columns)
        for rule in sorted(old.rules - new.rules):
            yield f"{name}: removes the {rule}"
        for rule in sorted(new.rules - old.rules):
            if not rule.startswith("index "):
                yield f"{name}: adds the {rule}, which may refuse rows of an older program"
        if new.file != old.file:
            yield f"{name}: all rows are written again, while no process can read them"
    for name in after.tables.keys() - before.tables.keys():
        for referred, action in sorted(after.tables[name].foreign):
            if referred in before.tables and action not in _HARMLESS_DELETES:
                yield f"{name}: an older program could not delete rows of {referred} to which it refers"


def _changes_of_columns(table: str, old: dict[str, Column], new: dict[str, Column]) -> Iterator[str]:
    for name, (kind, may_be_null, default) in old.items():
        if name not in new:
            yield f"the column {table}.{name} is removed or renamed"
            continue
        now = new[name]
        if kind != now[0]:
            yield f"{table}.{name} changes its type from {kind} to {now[0]}"
        if may_be_null != now[1]:
            yield f"{table}.{name} {'may' if now[1] else 'must not'} be NULL from now on"
        if default != now[2]:
            yield f"{table}.{name} changes its default"
    for name in new.keys() - old.keys():
        _, may_be_null, default = new[name]
        if not may_be_null and default is None:
            yield f"the new column {table}.{name} is NOT NULL without a default, so an older program cannot insert rows"


def _of_statements(statements: list[str], old: set[str]) -> Iterator[str]:
    for statement in statements:
        rows, index = _CHANGE_OF_ROWS.match(statement), _INDEX.match(statement)
        if rows is not None and rows.group(2) in old:
            yield f"{rows.group(2)}: changes rows in the transaction of the migration, for which other processes wait"
        if index is not None and index.group(1) in old:
            yield f"{index.group(1)}: builds an index while no process can write; state the time in `blocks`"
