"""Migrations are expansions that programs of the release before do not notice, or are marked as contractions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.script import Script, ScriptDirectory

from service.store.database import _transactional, _upgrade, make_engine
from service.store.schema import FIRST_COMPATIBLE, MIGRATIONS, known_revisions, oldest_compatible
from tests.databases import migrated_engine
from tests.last_release import LastRelease
from tests.service.store.expansions import objections

ROOT = Path(__file__).parents[3]
SCRIPTS = ScriptDirectory(str(MIGRATIONS))
LATER: list[Script] = list(reversed(list(SCRIPTS.iterate_revisions("head", FIRST_COMPATIBLE))))
RELEASES = set(re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE))
Migration = Callable[[], None]


def history(revision: str) -> list[str]:
    """Return a revision and those before it."""
    return [script.revision for script in SCRIPTS.iterate_revisions(revision, "base")]


def problems_of_marks(module: Any, releases: set[str], usable: list[str]) -> list[str]:
    """Return what is wrong with the marks of a migration.

    Args:
        module: The module of the migration.
        releases: The versions that were released.
        usable: The revisions that the last release has.
    """
    if (kind := getattr(module, "kind", None)) not in ("expand", "contract"):
        return ['states no kind: `kind = "expand"` or `kind = "contract"`']
    if kind == "expand":
        return []
    found = []
    if (release := getattr(module, "deprecated_in", None)) not in releases:
        found.append(f"`deprecated_in` must be a release that CHANGELOG.md lists, not {release!r}")
    if (oldest := getattr(module, "oldest_revision", None)) not in usable:
        found.append(
            f"`oldest_revision` is {oldest!r}, which the last release does not have: it could not work with the "
            "schema. Remove one release later what it still uses"
        )
    return found


@pytest.mark.parametrize("script", LATER, ids=lambda script: script.revision)
def test_later_migrations_state_their_kind(script: Script) -> None:
    assert problems_of_marks(script.module, RELEASES, history(LastRelease.read().revision)) == []


def test_the_last_release_can_work_with_the_newest_schema() -> None:
    newest = SCRIPTS.get_current_head()
    assert newest is not None
    assert oldest_compatible(SCRIPTS, newest) in history(LastRelease.read().revision)


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ({}, "states no kind"),
        ({"kind": "other"}, "states no kind"),
        ({"kind": "expand"}, None),
        ({"kind": "contract", "oldest_revision": "b"}, "not None"),
        ({"kind": "contract", "deprecated_in": "0.9.0", "oldest_revision": "b"}, "not '0.9.0'"),
        ({"kind": "contract", "deprecated_in": "0.1.0"}, "does not have"),
        ({"kind": "contract", "deprecated_in": "0.1.0", "oldest_revision": "c"}, "one release later"),
        ({"kind": "contract", "deprecated_in": "0.1.0", "oldest_revision": "b"}, None),
    ],
)
def test_marks_of_a_migration_are_examined(marks: dict[str, str], words: str | None) -> None:
    found = problems_of_marks(SimpleNamespace(**marks), {"0.1.0"}, ["b", "a"])
    assert [words in problem for problem in found if words is not None] == ([] if words is None else [True])


def test_contraction_raises_the_oldest_revision(tmp_path: Path) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    (tmp_path / "env.py").touch()
    marks = {
        "a": "",
        "b": 'kind = "expand"',
        "c": 'kind = "contract"; oldest_revision = "b"',
        "d": 'kind = "expand"',
    }
    for (name, mark), before in zip(marks.items(), [None, *marks], strict=False):
        (versions / f"{name}.py").write_text(f"revision = {name!r}\ndown_revision = {before!r}\n{mark}\n")
    scripts = ScriptDirectory(str(tmp_path))
    assert [oldest_compatible(scripts, name) for name in marks] == [FIRST_COMPATIBLE, FIRST_COMPATIBLE, "b", "b"]
    assert FIRST_COMPATIBLE in known_revisions()


def transactional(engine: sa.Engine) -> sa.Engine:
    """Return an engine with which changes of tables can be rolled back."""
    return _transactional(engine) if engine.dialect.name == "sqlite" else engine


def test_later_migrations_are_expansions(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    _upgrade(engine, FIRST_COMPATIBLE)
    with transactional(engine).begin() as connection:
        found = {script.revision: objections(connection, script.module.upgrade) for script in LATER}
    engine.dispose()
    excused = {s.revision for s in LATER if s.module.kind == "contract" or getattr(s.module, "blocks", "")}
    assert {revision: items for revision, items in found.items() if items and revision not in excused} == {}
    assert len(found) == len(LATER) > 0


def column(name: str, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.String(16), **options)


def in_batch(change: Callable[[Any], None], table: str = "reviews") -> Migration:
    def upgrade() -> None:
        with op.batch_alter_table(table) as batch:
            change(batch)

    return upgrade


def create_table(ondelete: str | None = None) -> Migration:
    def upgrade() -> None:
        op.create_table(
            "notes",
            sa.Column("id", sa.Integer(), primary_key=True),
            sa.Column("inspection_id", sa.String(36)),
            sa.ForeignKeyConstraint(["inspection_id"], ["inspections.id"], ondelete=ondelete, name="fk_notes"),
        )
        op.create_index("ix_notes", "notes", ["inspection_id"])

    return upgrade


EXPANSIONS: dict[str, Migration] = {
    "table": create_table("CASCADE"),
    "column that may be null": lambda: op.add_column("reviews", column("colour", nullable=True)),
    "column with a default": lambda: op.add_column("reviews", column("colour", nullable=False, server_default="red")),
}
# What older programs notice, with words of the objection.
OTHERS: dict[str, tuple[Migration, str]] = {
    "removed table": (lambda: op.drop_table("login_attempts"), "login_attempts is removed"),
    "renamed table": (lambda: op.rename_table("login_attempts", "logins"), "login_attempts is removed or renamed"),
    "removed column": (in_batch(lambda batch: batch.drop_column("note")), "reviews.note is removed"),
    "renamed column": (
        in_batch(lambda batch: batch.alter_column("note", new_column_name="remark")),
        "reviews.note is removed or renamed",
    ),
    "type": (in_batch(lambda batch: batch.alter_column("note", type_=sa.Text())), "reviews.note changes its type"),
    "not null": (in_batch(lambda batch: batch.alter_column("note", nullable=False)), "reviews.note must not be NULL"),
    "null": (in_batch(lambda batch: batch.alter_column("reviewer", nullable=True)), "reviews.reviewer may be NULL"),
    "default": (
        in_batch(lambda batch: batch.alter_column("note", server_default="none")),
        "reviews.note changes its default",
    ),
    "column without a default": (
        in_batch(lambda batch: batch.add_column(column("colour", nullable=False))),
        "NOT NULL without a default",
    ),
    "constraint": (
        in_batch(lambda batch: batch.create_unique_constraint("uq_reviews_note", ["note"])),
        "adds the unique",
    ),
    "check": (in_batch(lambda batch: batch.create_check_constraint("ck_note", "note <> ''")), "adds the check"),
    "unique index": (lambda: op.create_index("ix_note", "reviews", ["note"], unique=True), "adds the unique index"),
    "removed index": (lambda: op.drop_index("ix_reviews_product_id", "reviews"), "removes the index"),
    "reference": (create_table(), "could not delete rows of inspections"),
    "removed trigger": (
        lambda: op.execute(
            "DROP TRIGGER audit_log_no_update"
            if op.get_bind().dialect.name == "sqlite"
            else "DROP TRIGGER audit_log_no_change ON audit_log"
        ),
        "removes the trigger audit_log_no",
    ),
}
# What other processes wait for, in PostgreSQL only.
BLOCKING: dict[str, tuple[Migration, str]] = {
    "index": (lambda: op.create_index("ix_note", "reviews", ["note"]), "builds an index"),
    "rows": (lambda: op.execute("UPDATE reviews SET note = 'x'"), "reviews: changes rows"),
    "removed rows": (lambda: op.execute("DELETE FROM reviews"), "reviews: changes rows"),
    "volatile default": (
        lambda: op.add_column("reviews", sa.Column("at", sa.DateTime(), server_default=sa.text("clock_timestamp()"))),
        "all rows are written again",
    ),
}


@pytest.fixture
def found(database_url: str) -> Iterator[Callable[[Migration], list[str]]]:
    """Returns what a migration of the newest schema would change for older programs."""
    engine = migrated_engine(database_url)

    def examine(migration: Migration) -> list[str]:
        with transactional(engine).connect() as connection:
            items = objections(connection, migration)
            connection.rollback()
        return items

    yield examine
    engine.dispose()


def test_what_older_programs_notice_is_found(found: Callable[[Migration], list[str]], database_url: str) -> None:
    assert {name: found(migration) for name, migration in EXPANSIONS.items()} == {name: [] for name in EXPANSIONS}
    others = OTHERS if database_url.startswith("sqlite") else OTHERS | BLOCKING
    for name, (migration, words) in others.items():
        assert any(words in objection for objection in found(migration)), (name, words, found(migration))
