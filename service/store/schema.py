"""The schema of a database, and which programs can work with it.

A migration is an expansion, which programs of the release before do not notice, or a contraction, which removes what
they do not use any more. So during an upgrade, programs with and without a migration work on one database. Programs do
not know later migrations. Therefore the database states the oldest revision whose programs can work with its schema:
a program that has this migration can, one that lacks it cannot.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, insert, inspect, select, text

from service.store.models import SchemaCompatibilityRow

MIGRATIONS = Path(__file__).parent / "migrations"
FIRST_COMPATIBLE = "0019_login_attempts"
"""The oldest revision whose programs can work with the schema as long as there is no contraction. All later migrations
state their kind."""
UPGRADE = "Stop this process, and start the version that migrated the database."
"""What to do if a newer version has migrated the database and this one cannot work with it."""
_ROW = 1
_PROGRAM = "plumbline"
_NAMES = """
SELECT DISTINCT application_name FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE :start
"""


@functools.cache
def known_revisions() -> frozenset[str]:
    """Return the migrations that this version has."""
    return frozenset(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())


@functools.cache
def newest_revision() -> str:
    """Return the newest migration that this version has."""
    newest = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert newest is not None
    return newest


@dataclass(frozen=True)
class Schema:
    """The schema of a database.

    Attributes:
        revision: The newest migration that was applied; None for an empty database.
        oldest_revision: The oldest revision whose programs can work with the schema; None if the database does not
            state it, because no migration did so yet.
    """

    revision: str | None
    oldest_revision: str | None

    @classmethod
    def of(cls, connection: Connection) -> Schema:
        """Read what a database states."""
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is None or not inspect(connection).has_table(SchemaCompatibilityRow.__tablename__):
            return cls(revision, None)
        return cls(revision, connection.scalar(select(SchemaCompatibilityRow.oldest_revision)))

    @property
    def is_newer(self) -> bool:
        """Return whether a newer version migrated it."""
        return self.revision is not None and self.revision not in known_revisions()

    @property
    def is_too_new(self) -> bool:
        """Return whether a newer version migrated it, and this version cannot work with it."""
        return self.is_newer and self.oldest_revision not in known_revisions()


def incompatibility(connection: Connection) -> str | None:
    """Return why this version cannot work with a database that it opened before, in words that follow its name.

    One query, for processes that ask all the time.

    Args:
        connection: A connection to the database.
    """
    oldest = connection.scalar(select(SchemaCompatibilityRow.oldest_revision))
    return None if oldest is None or oldest in known_revisions() else too_new(oldest)


def too_new(oldest: str | None) -> str:
    """Return that this version is too old for a database, in words that follow the name of the database.

    Args:
        oldest: The oldest revision whose programs can work with the schema; None if the database does not state it.
    """
    needed = "" if oldest is None else f": it needs one that has the migration {oldest}"
    return f"was migrated by a newer version of Plumbline, and this version cannot work with its tables{needed}"


def record_compatibility(connection: Connection, migrations: ScriptDirectory) -> None:
    """Store in a database which programs can work with its schema, after it was migrated.

    Args:
        connection: The connection, in the transaction of the migrations.
        migrations: All migrations that were applied, and possibly later ones.
    """
    if not inspect(connection).has_table(SchemaCompatibilityRow.__tablename__):
        return
    schema = Schema.of(connection)
    assert schema.revision is not None
    oldest = oldest_compatible(migrations, schema.revision)
    if schema.oldest_revision != oldest:
        connection.execute(delete(SchemaCompatibilityRow))
        connection.execute(insert(SchemaCompatibilityRow).values(id=_ROW, oldest_revision=oldest))


def oldest_compatible(migrations: ScriptDirectory, revision: str) -> str:
    """Return the oldest revision whose programs can work with the schema of a revision.

    Args:
        migrations: The migrations.
        revision: The newest migration that was applied.
    """
    for module in _modules(migrations, revision):
        if getattr(module, "kind", None) == "contract":
            oldest: str = module.oldest_revision
            return oldest
    return FIRST_COMPATIBLE


def too_old_programs(connection: Connection, migrations: ScriptDirectory, revision: str) -> set[str]:
    """Return the newest migrations of running programs that could not work with the schema after it is migrated.

    Sessions of PostgreSQL have the newest migration of their program in their name: see `session_name`.

    Args:
        connection: A connection to the database before it is migrated.
        migrations: All migrations of this version.
        revision: The newest migration that is to be applied.
    """
    return programs_without(connection, oldest_compatible(migrations, revision), migrations)


def programs_without(connection: Connection, revision: str, migrations: ScriptDirectory | None = None) -> set[str]:
    """Return the newest migrations of running programs that lack a migration.

    Args:
        connection: A connection to a PostgreSQL database.
        revision: The migration.
        migrations: All migrations; None for those of this version.
    """
    migrations = migrations or ScriptDirectory(str(MIGRATIONS))
    older = {script.revision for script in migrations.iterate_revisions(revision, "base")} - {revision}
    names = connection.scalars(text(_NAMES), {"start": f"{_PROGRAM}%"})
    return {name.removeprefix(_PROGRAM).strip() or FIRST_COMPATIBLE for name in names} & older


def session_name() -> str:
    """Return the name of the sessions of this version at a database server."""
    return f"{_PROGRAM} {newest_revision()}"


def _modules(migrations: ScriptDirectory, revision: str) -> Iterator[Any]:
    """Yield the modules of a migration and of those before it, the newest one first."""
    for script in migrations.iterate_revisions(revision, "base"):
        yield script.module
