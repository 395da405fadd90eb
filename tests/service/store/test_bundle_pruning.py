"""Bundles and files that nothing needs are removed from the bundle store. On SQLite and PostgreSQL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, select, text

from service.bundle.bundle import Bundle
from service.bundle.manifest import MANIFEST
from service.store import choices as choices_module
from service.store.audit import AuditEntry, AuditFilter, list_audit
from service.store.bundles import pruning as pruning_module
from service.store.bundles.errors import BundleBeingRemoved, BundleRemoved
from service.store.bundles.objects import BundleObjects, LocalObjects
from service.store.bundles.pruning import ORPHAN_AGE, claim_orphan, find_orphans, find_unneeded, pruning, unlist
from service.store.bundles.references import ListedBundle
from service.store.bundles.removals import finish_removal, removed_keys, unfinished_removals
from service.store.bundles.table import BundleTable
from service.store.choices import BundleChoices
from service.store.errors import BundleStoreUnavailable
from service.store.models import BundleRow
from service.store.records import ChoiceDraft, Role
from service.store.schema import newest_revision
from service.store.session import writing
from service.store.store import Store
from tests.bundles import write_tiny_bundle
from tests.service.deployment.conftest import ADA, HangingWrite
from tests.service.store.listed_bundles import (
    LIMIT,
    LONG_AGO,
    NOW,
    OLD,
    PRUNER,
    SERVING,
    list_bundle,
    serve,
    store,
)
from tests.service.store.test_bundle_store import objects

__all__ = ["objects", "store"]
pytestmark = pytest.mark.usefixtures("aws_credentials")


@pytest.fixture
def stored(store: Store, objects: BundleObjects, tiny_bundle: Bundle, tmp_path: Path) -> ListedBundle:
    """A bundle in the bundle store that nothing needs, beside one that serves."""
    table = BundleTable(store.engine)
    objects.store(tiny_bundle)
    assert table.add(tiny_bundle, table.text_of(tiny_bundle))
    serve(store)
    with writing(store.engine, "test") as session:
        session.get_one(BundleRow, tiny_bundle.digest).stored_at = LONG_AGO
    return ListedBundle("widget", tiny_bundle.version, tiny_bundle.digest, LONG_AGO, LONG_AGO, 1)


FAR = NOW + timedelta(days=1000)
"""A limit by which no bundle is too young; none was deployed in these tests."""


def remove(store: Store, objects: BundleObjects, bundle: ListedBundle) -> None:
    found = find_unneeded(store.engine, FAR)
    assert unlist(store.engine, bundle, found, PRUNER) == "removed"
    objects.remove(bundle.digest)
    finish_removal(store.engine, bundle.digest)


def test_removed_bundle_is_gone_and_can_be_stored_again(
    store: Store, objects: BundleObjects, stored: ListedBundle, tiny_bundle: Bundle
) -> None:
    table, choices = BundleTable(store.engine), BundleChoices(store.engine)
    assert objects.digests() == {stored.digest}
    assert {file.name for file in objects.files(stored.digest)} == {*tiny_bundle.manifest.files, MANIFEST}
    remove(store, objects, stored)
    assert objects.digests() == set()
    assert objects.files(stored.digest) == []
    assert table.versions("widget") == [SERVING[:12]]
    assert removed_keys(store.engine) == {("widget", stored.version)}
    (entry,) = list_audit(store.engine, AuditFilter(action="bundle:remove"))
    assert (entry.actor, entry.product, entry.object) == (PRUNER.name, "widget", stored.version)
    assert entry.before["bundle_digest"] == stored.digest
    draft = ChoiceDraft("widget", "active", stored.digest, ADA, "test", "bundle:activate")
    for append in (lambda: choices.append(draft), lambda: choices.append_with_recipe([draft], None)):
        with pytest.raises(BundleRemoved, match=f"{stored.version}.*removed from the bundle store at .* by Ada"):
            append()
    error = table.removal_of("widget", stored.version)
    assert error is not None
    assert error.status == 410
    assert table.removal_of("widget", SERVING[:12]) is None
    removals = table.count_removals(stored.digest)
    objects.store(tiny_bundle)
    assert table.add(tiny_bundle, table.text_of(tiny_bundle), removals)
    assert removed_keys(store.engine) == set()
    assert table.removal_of("widget", stored.version) is None
    choices.append(draft)


def test_upload_of_a_listed_bundle_begins_its_minimum_age_again(
    store: Store, objects: BundleObjects, stored: ListedBundle, tiny_bundle: Bundle
) -> None:
    with writing(store.engine, "test") as session:
        session.get_one(BundleRow, stored.digest).created_at = LONG_AGO
    found = find_unneeded(store.engine, LIMIT)
    assert [one.digest for one in found.bundles] == [stored.digest]
    table = BundleTable(store.engine)
    assert not table.add(tiny_bundle, table.text_of(tiny_bundle), table.count_removals(stored.digest))
    assert unlist(store.engine, stored, found, PRUNER) == "age"


def test_upload_that_began_before_a_removal_is_refused(
    store: Store, objects: BundleObjects, stored: ListedBundle, tiny_bundle: Bundle
) -> None:
    table = BundleTable(store.engine)
    removals = table.count_removals(tiny_bundle.digest)
    objects.store(tiny_bundle)  # passes over the files that are there
    remove(store, objects, stored)
    with pytest.raises(BundleBeingRemoved):
        table.add(tiny_bundle, table.text_of(tiny_bundle), removals)
    assert table.versions("widget") == [SERVING[:12]]


def test_interrupted_removal_is_completed_by_the_next_one(
    store: Store, objects: BundleObjects, stored: ListedBundle, tiny_bundle: Bundle
) -> None:
    table = BundleTable(store.engine)
    assert unlist(store.engine, stored, find_unneeded(store.engine, FAR), PRUNER) == "removed"
    objects.delete([f"{stored.digest}/{MANIFEST}"])
    assert table.versions("widget") == [SERVING[:12]], "half of its files are left, and it is not listed"
    with pytest.raises(BundleBeingRemoved, match="first complete it with `plumbline bundle prune --remove`"):
        table.count_removals(stored.digest)
    with pytest.raises(BundleBeingRemoved):
        table.add(tiny_bundle, table.text_of(tiny_bundle))
    (orphan,) = find_orphans(store.engine, objects, NOW)
    assert (orphan.digest, orphan.is_removal) == (stored.digest, True)
    for _ in range(2):  # again after everything is gone
        assert claim_orphan(store.engine, orphan, PRUNER)
        objects.remove(orphan.digest)
    finish_removal(store.engine, orphan.digest)
    assert unfinished_removals(store.engine) == []
    assert len(list_audit(store.engine, AuditFilter(action="bundle:remove"))) == 1
    assert table.count_removals(stored.digest) == 1


def test_files_without_a_bundle_are_found_after_a_day(
    store: Store, objects: BundleObjects, stored: ListedBundle, tmp_path: Path
) -> None:
    left = write_tiny_bundle(tmp_path / "other", "nut")
    objects.store(left)
    objects.write("notes/readme", b"of the plant")
    assert list(find_orphans(store.engine, objects, datetime.now(UTC))) == []
    (orphan,) = find_orphans(store.engine, objects, datetime.now(UTC) + ORPHAN_AGE)
    assert (orphan.digest, orphan.is_removal) == (left.digest, False)
    assert orphan.size_bytes == sum(file.size for file in objects.files(left.digest)) > 0
    table = BundleTable(store.engine)
    table.add(left, table.text_of(left))
    assert not claim_orphan(store.engine, orphan, PRUNER), "it was added to the list meanwhile"
    with writing(store.engine, "test") as session:
        session.execute(delete(BundleRow).where(BundleRow.digest == left.digest))
    assert claim_orphan(store.engine, orphan, PRUNER)
    with pytest.raises(BundleBeingRemoved):
        table.add(left, table.text_of(left))
    objects.remove(left.digest)
    assert objects.digests() == {stored.digest}
    assert objects.state("notes/readme") is not None


def test_file_that_was_written_today_keeps_an_orphan(store: Store, tmp_path: Path, tiny_bundle: Bundle) -> None:
    (tmp_path / "store").mkdir()
    local = LocalObjects(tmp_path / "store")
    local.store(tiny_bundle)
    paths = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    for path in paths:
        os.utime(path, (LONG_AGO.timestamp(),) * 2)
    assert len(list(find_orphans(store.engine, local, NOW))) == 1
    os.utime(paths[0])
    assert list(find_orphans(store.engine, local, NOW)) == []


def hang(write: HangingWrite, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Let the transactions of a module hang before they end, with all their changes made."""
    append_audit = module.append_audit

    def hanging(session: Any, *entries: AuditEntry) -> None:
        session.flush()
        write.wait()
        append_audit(session, *entries)

    monkeypatch.setattr(module, "append_audit", hanging)


def in_thread(results: list[Any], change: Callable[[], Any]) -> threading.Thread:
    def work() -> None:
        try:
            results.append(change())
        except BaseException as error:  # noqa: BLE001 - checked by the test
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("role", ["active", "shadow"])
def test_bundle_that_is_deployed_while_it_is_removed_is_not_deployed(
    store: Store, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    serve(store)
    bundle = list_bundle(store, OLD)
    found = find_unneeded(store.engine, LIMIT)
    write, results = HangingWrite(), []
    hang(write, monkeypatch, pruning_module)
    write.run(lambda: results.append(unlist(store.engine, bundle, found, PRUNER)))
    draft = ChoiceDraft("widget", role, OLD, ADA, "test", "bundle:activate")
    outcomes: list[Any] = []
    deploying = in_thread(outcomes, lambda: BundleChoices(store.engine).append(draft))
    deploying.join(0.5)
    assert deploying.is_alive(), "it waits for the removal"
    write.release()
    deploying.join(30)
    assert results == ["removed"]
    assert isinstance(outcomes[0], BundleRemoved)


def test_bundle_that_is_removed_while_it_is_activated_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(store)
    bundle = list_bundle(store, OLD)
    found = find_unneeded(store.engine, LIMIT)
    write = HangingWrite()
    hang(write, monkeypatch, choices_module)
    draft = ChoiceDraft("widget", "active", OLD, ADA, "test", "bundle:activate")
    write.run(lambda: BundleChoices(store.engine).append_with_recipe([draft], None))
    outcomes: list[Any] = []
    removing = in_thread(outcomes, lambda: unlist(store.engine, bundle, found, PRUNER))
    removing.join(0.5)
    assert removing.is_alive(), "it waits for the activation"
    write.release()
    removing.join(30)
    assert outcomes == ["active"]
    with store.engine.connect() as connection:
        assert OLD in connection.scalars(select(BundleRow.digest)).all()


def test_only_one_process_removes_bundles(store: Store) -> None:
    with pruning(store.engine) as right:
        right.require()
        with pytest.raises(BundleStoreUnavailable, match="another process removes bundles"), pruning(store.engine):
            pass
    with pruning(store.engine) as right:
        right.require()


@pytest.mark.slow
def test_process_of_an_older_version_prevents_removals(postgres_url: str, tmp_path: Path) -> None:
    store = Store.open(postgres_url, tmp_path / "data")
    other: Engine = Store.open(f"{postgres_url}?application_name=plumbline 0021_record_removals", tmp_path / "b").engine
    with other.connect() as connection:
        connection.execute(text("SELECT 1"))
        with (
            pytest.raises(BundleStoreUnavailable, match=r"0021_record_removals.*Complete the upgrade"),
            pruning(store.engine),
        ):
            pass
    other.dispose()
    assert newest_revision() >= pruning_module._OLDEST_PROGRAMS
    store.close()
