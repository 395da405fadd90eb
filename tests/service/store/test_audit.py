"""The audit log: a gapless, append-only chain on SQLite."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from service.bundle.bundle import Bundle
from service.recipes.recipe import Recipe
from service.store.audit import (
    GENESIS,
    SERVICE,
    Actor,
    AuditEntry,
    AuditFilter,
    append_audit,
    audit_head,
    list_audit,
    read_audit,
    record_change,
)
from service.store.audit_chain import ChainReport, ExportUnreadable, read_export, verify_chain
from service.store.choices import BundleChoices
from service.store.database import _transactional, _upgrade
from service.store.errors import StoreUnavailable
from service.store.recipes import append_recipe, recipe_history
from service.store.records import ChoiceDraft, RecipeDraft
from service.store.schema import MIGRATIONS
from service.store.session import retry_conflicts, writing
from service.store.store import Store
from tests.databases import recorded_statements

ADA = Actor("account", "7", "Ada", "10.0.0.5", "req-1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path / "data")
    yield opened
    opened.close()


def entry(number: int = 0, **changes: Any) -> AuditEntry:
    values: dict[str, Any] = {"actor": ADA, "action": "recipe:put", "product": "widget", "after": {"n": number}}
    return AuditEntry(**(values | changes))


def fill(store: Store, count: int) -> None:
    for number in range(count):
        record_change(store.engine, entry(number))


def tamper(tmp_path: Path, *statements: str, drop_triggers: bool = True) -> None:
    """Change the database as somebody who has the file can: without the triggers."""
    with sqlite3.connect(tmp_path / "plumbline.db") as database:
        if drop_triggers:
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
    database.close()


def test_entries_are_numbered_without_gaps_and_linked_by_hashes(store: Store) -> None:
    assert audit_head(store.engine) is None
    fill(store, 3)
    first, second, third = read_audit(store.engine)
    assert [record.id for record in (first, second, third)] == [1, 2, 3]
    assert first.previous_hash == GENESIS
    assert (second.previous_hash, third.previous_hash) == (first.hash, second.hash)
    head = audit_head(store.engine)
    assert head is not None
    assert (head.id, head.hash) == (3, third.hash)


def test_hash_can_be_computed_from_an_exported_entry_with_standard_tools(store: Store) -> None:
    record_change(store.engine, entry(before={"müller": 0.1, "b": [1, 2.50, None]}, note='Späne – "x"\n'))
    (record,) = read_audit(store.engine)
    exported = json.loads(json.dumps(record.values()))
    stated = exported.pop("hash")
    text_form = json.dumps(exported, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text_form.encode()).hexdigest() == stated


def test_entry_contains_who_when_from_where_and_what(store: Store) -> None:
    before = datetime.now(UTC)
    record_change(store.engine, entry(object="revision 4", before={"roi": ((1, 2), (3, 4))}, note="dust"))
    (record,) = read_audit(store.engine)
    assert (record.actor_kind, record.actor_id, record.actor) == ("account", "7", "Ada")
    assert (record.address, record.request_id) == ("10.0.0.5", "req-1")
    assert before <= record.created_at <= datetime.now(UTC)
    assert (record.action, record.product, record.object, record.note) == ("recipe:put", "widget", "revision 4", "dust")
    assert (record.before, record.after) == ({"roi": [[1, 2], [3, 4]]}, {"n": 0})


def test_entry_is_stored_only_with_its_change(store: Store) -> None:
    with writing(store.engine, "x") as session:
        append_audit(session, entry())
        session.rollback()
    assert audit_head(store.engine) is None


def test_concurrent_changes_do_not_fork_the_chain(store: Store) -> None:
    def change(number: int) -> None:
        # First a read, as changes do: the chain must not be continued from what was the newest entry then.
        def write() -> None:
            with writing(store.engine, "x") as session:
                session.execute(text("SELECT count(*) FROM recipes")).scalar()
                append_audit(session, entry(number))
                append_audit(session, entry(number, action="retention:change"))

        write() if number % 2 else retry_conflicts(write)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    report = verify_chain(read_audit(store.engine))
    assert (report.entries, report.broken) == (80, None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET note = 'x' WHERE id = 2",
        "UPDATE audit_log SET id = 9 WHERE id = 3",
        "DELETE FROM audit_log WHERE id = 3",
        "DELETE FROM audit_log",
        "INSERT OR REPLACE INTO audit_log SELECT * FROM audit_log WHERE id = 3",
        (
            "INSERT INTO audit_log SELECT 9 AS id, created_at, '', '', '', '', '', '', '', '', '', '', '', '', '' "
            "FROM audit_log LIMIT 1"
        ),
    ],
)
def test_database_refuses_to_change_entries(store: Store, tmp_path: Path, statement: str) -> None:
    fill(store, 3)
    with pytest.raises(sqlite3.IntegrityError, match="audit_log"):
        tamper(tmp_path, statement, drop_triggers=False)
    assert verify_chain(read_audit(store.engine)).entries == 3


@pytest.mark.parametrize(
    ("statement", "broken", "words"),
    [
        ("UPDATE audit_log SET actor = 'Bob' WHERE id = 3", 3, "its content has the hash"),
        ("UPDATE audit_log SET note = 'x' WHERE id = 3", 3, "its content has the hash"),
        ("UPDATE audit_log SET address = NULL WHERE id = 3", 3, "its content has the hash"),
        ("UPDATE audit_log SET created_at = '2020-01-01 00:00:00.000000' WHERE id = 3", 3, "its content has the hash"),
        ("UPDATE audit_log SET created_at = 'yesterday' WHERE id = 3", 3, "cannot be read"),
        ("UPDATE audit_log SET after = '{\"n\":99}' WHERE id = 3", 3, "its content has the hash"),
        ("UPDATE audit_log SET after = '{ \"n\":2}' WHERE id = 3", 3, "its content has the hash"),
        ("UPDATE audit_log SET after = 'no JSON' WHERE id = 3", 3, "its content has the hash"),
        ("UPDATE audit_log SET note = x'00ff' WHERE id = 3", 3, "is not valid"),
        ("UPDATE audit_log SET hash = 'x' WHERE id = 3", 3, "but the stored hash is x"),
        ("DELETE FROM audit_log WHERE id = 3", 3, "it is missing; the next entry is 4"),
        ("DELETE FROM audit_log WHERE id = 1", 1, "it is missing; the next entry is 2"),
        ("UPDATE audit_log SET id = id + 100 WHERE id >= 3", 3, "it is missing; the next entry is 103"),
    ],
)
def test_first_broken_entry_is_named_with_what_differs(
    store: Store, tmp_path: Path, statement: str, broken: int, words: str
) -> None:
    fill(store, 5)
    tamper(tmp_path, statement)
    report = verify_chain(read_audit(store.engine))
    assert report.broken is not None
    assert (report.broken.id, report.entries) == (broken, broken - 1)
    assert words in report.broken.reason


def test_entry_with_a_recomputed_hash_breaks_the_link_to_the_next_one(store: Store, tmp_path: Path) -> None:
    fill(store, 4)
    second = list(read_audit(store.engine))[1]
    forged = replace(second, actor="Bob")
    tamper(tmp_path, f"UPDATE audit_log SET actor = 'Bob', hash = '{forged.expected_hash}' WHERE id = 2")  # noqa: S608
    broken = verify_chain(read_audit(store.engine)).broken
    assert broken is not None
    assert broken.id == 3
    assert f"its previous_hash is {second.hash}, but entry 2 has {forged.expected_hash}" in broken.reason


def test_removed_end_is_noticed_with_a_known_hash_or_an_export(store: Store, tmp_path: Path) -> None:
    fill(store, 5)
    records = list(read_audit(store.engine))
    exported = [json.dumps(record.values()) for record in records[2:]]
    fill(store, 1)

    def verify(**known: Any) -> ChainReport:
        return verify_chain(read_audit(store.engine), **known)

    assert verify(expected_head=records[-1].hash).broken is None, "entries may have been added since"
    assert verify(exported=read_export(exported)).broken is None

    tamper(tmp_path, "DELETE FROM audit_log WHERE id > 3")
    assert verify().broken is None, "the chain alone does not show it"
    for report in (verify(expected_head=records[-1].hash), verify(exported=read_export(exported))):
        broken = report.broken
        assert broken is not None
        assert broken.id == 4
        assert "the end was removed" in broken.reason


def test_rewritten_chain_is_noticed_with_an_export(store: Store, tmp_path: Path) -> None:
    fill(store, 3)
    exported = [json.dumps(record.values()) for record in read_audit(store.engine)]
    tamper(tmp_path, "DELETE FROM audit_log")
    for number in range(3):
        record_change(store.engine, entry(number, actor=replace(ADA, name="Bob") if number == 1 else ADA))
    assert verify_chain(read_audit(store.engine)).broken is None
    broken = verify_chain(read_audit(store.engine), exported=read_export(exported)).broken
    assert broken is not None
    assert broken.id == 1, "the time differs"
    fresh = [json.dumps(record.values() | {"note": "x"}) for record in read_audit(store.engine)]
    broken = verify_chain(read_audit(store.engine), exported=read_export(fresh)).broken
    assert broken is not None
    assert broken.reason == "note is '' in the database, but 'x' in the exported file"


@pytest.mark.parametrize("lines", [["no JSON"], ["[]"], ['{"id": "1"}'], ['{"id": 2}', '{"id": 2}'], ['{"id": 0}']])
def test_export_that_is_none_is_refused(store: Store, lines: list[str]) -> None:
    fill(store, 3)
    with pytest.raises(ExportUnreadable, match="Line"):
        list(read_export(lines))


def test_entries_are_listed_newest_first_by_filter_and_key(store: Store) -> None:
    for number in range(6):
        actor = replace(ADA, name="Bob", id="8") if number % 2 else ADA
        product = "gadget" if number == 4 else "widget"
        record_change(store.engine, entry(number, actor=actor, product=product, action="bundle:upload"))

    def ids(which: AuditFilter, **page: int) -> list[int]:
        return [record.id for record in list_audit(store.engine, which, **page)]

    assert ids(AuditFilter(), limit=2) == [6, 5]
    assert ids(AuditFilter(), before=5, limit=2) == [4, 3]
    assert ids(AuditFilter(actor="Bob")) == ids(AuditFilter(actor="8")) == [6, 4, 2]
    assert ids(AuditFilter(product="gadget")) == [5]
    assert ids(AuditFilter(action="recipe:put")) == []
    third = list(read_audit(store.engine))[2].created_at
    assert ids(AuditFilter(since=third)) == [6, 5, 4, 3]
    assert ids(AuditFilter(until=third)) == [2, 1]
    assert [record.id for record in read_audit(store.engine, AuditFilter(since=third + timedelta(days=1)))] == []


def test_log_is_read_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.audit._PIECE", 2)
    fill(store, 5)
    assert [record.id for record in read_audit(store.engine)] == [1, 2, 3, 4, 5]
    fill(store, 1)
    assert len(list(read_audit(store.engine))) == 6


def test_every_change_of_a_recipe_and_of_a_role_is_recorded(store: Store, tiny_bundle: Bundle) -> None:
    recipe = Recipe.default(tiny_bundle.card.scores)
    append_recipe(store.engine, tiny_bundle, recipe, actor=ADA, reason="first")
    changed = recipe.changed({"regions": {"min_area_px": 25}, "retention": {"pass": {"days": 7}}})
    append_recipe(store.engine, tiny_bundle, changed, actor=ADA, reason="dust", action="recipe:import")
    draft = ChoiceDraft("widget", "active", tiny_bundle.digest, ADA, "better", "bundle:activate")
    BundleChoices(store.engine).append(draft)
    first, second, retention, choice = read_audit(store.engine)

    assert (first.before, first.after["revision"], first.note) == (None, 1, "first")
    assert (second.action, second.object, second.note) == ("recipe:import", "revision 2", "dust")
    assert second.before["recipe"] == {"regions.min_area_px": 0, "retention.pass": None}
    assert second.after["recipe"] == {"regions.min_area_px": 25, "retention.pass": {"days": 7, "count": None}}
    assert (retention.action, retention.before["retention"]) == ("retention:change", {})
    assert retention.after["retention"] == {"pass": {"days": 7, "count": None}}
    assert (choice.action, choice.object) == ("bundle:activate", tiny_bundle.version)
    assert choice.before == {"role": "active", "bundle_digest": None}
    assert choice.after == {"role": "active", "bundle_digest": tiny_bundle.digest}


def test_entries_are_appended_after_all_other_statements(store: Store, tiny_bundle: Bundle) -> None:
    recipe = Recipe.default(tiny_bundle.card.scores)
    draft = RecipeDraft("widget", tiny_bundle.digest, recipe, ADA, "better", "recipe:derive")
    active = ChoiceDraft("widget", "active", tiny_bundle.digest, ADA, "better", "bundle:activate")
    shadow = ChoiceDraft("widget", "shadow", None, ADA, "better", "shadow:stop")
    implicit = ChoiceDraft("widget", "active", "0" * 64, SERVICE, "", "bundle:keep")
    with recorded_statements(store.engine) as statements:
        BundleChoices(store.engine).append_with_recipe([active, shadow], draft, implicit)

    concerns_audit = ["audit" in statement for statement in statements]
    assert concerns_audit == sorted(concerns_audit)
    assert [one.action for one in read_audit(store.engine)] == [
        "recipe:derive", "bundle:keep", "bundle:activate", "shadow:stop",
    ]  # fmt: skip


def test_change_that_cannot_be_recorded_is_not_made(
    store: Store, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr("service.store.recipes.append_audit", unavailable)
    with pytest.raises(StoreUnavailable):
        append_recipe(store.engine, tiny_bundle, Recipe(fail_threshold=2, review_threshold=1), actor=ADA, reason="b")
    assert recipe_history(store.engine, "widget") == []


def test_migration_removes_its_triggers_when_it_is_reverted(tmp_path: Path) -> None:
    check_migration(f"sqlite:///{tmp_path / 'plumbline.db'}")


def test_migration_estimates_the_size_of_stored_files(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'plumbline.db'}"
    _upgrade(create_engine(url), "0008_time_indexes")
    with sqlite3.connect(tmp_path / "plumbline.db") as database:
        columns = database.execute("PRAGMA table_info(inspections)").fetchall()
        for name, removed_at in (("kept", None), ("removed", "2026-01-01 00:00:00.000000")):
            given = {"id": name, "artefacts_removed_at": removed_at, "image_bytes": 700}
            values = [given.get(column[1], "x" if column[3] else None) for column in columns]
            database.execute(f"INSERT INTO inspections VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
    database.close()
    engine = create_engine(url)
    _upgrade(engine)
    with engine.connect() as connection:
        sizes = connection.execute(text("SELECT id, artefact_bytes FROM inspections ORDER BY id")).all()
    engine.dispose()
    assert [tuple(row) for row in sizes] == [("kept", 700), ("removed", None)]


def check_migration(url: str) -> None:
    """Migrate up, down and up again."""
    engine = create_engine(url)
    _upgrade(engine, "0010_audit_log")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with (_transactional(engine) if engine.dialect.name == "sqlite" else engine).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0010_audit_log@-1")
        if engine.dialect.name == "sqlite":
            left = connection.execute(text("SELECT name FROM sqlite_master WHERE name LIKE 'audit%'")).all()
        else:
            left = connection.execute(text("SELECT proname FROM pg_proc WHERE proname LIKE 'audit%'")).all()
        assert list(left) == []
    _upgrade(engine)
    engine.dispose()
