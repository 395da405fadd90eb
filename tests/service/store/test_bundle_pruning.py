"""Bundles that nothing needs are removed from the bundle store, and others are kept. On SQLite and PostgreSQL."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Engine, String, Text, delete, select, text

from service.bundle.bundle import Bundle
from service.bundle.manifest import MANIFEST
from service.recipes.recipe import Recipe
from service.store import choices as choices_module
from service.store.audit import Actor, AuditEntry, AuditFilter, list_audit
from service.store.bundles import pruning as pruning_module
from service.store.bundles.errors import BundleBeingRemoved, BundleRemoved
from service.store.bundles.objects import BundleObjects, LocalObjects
from service.store.bundles.pruning import ORPHAN_AGE, claim_orphan, find_orphans, find_unneeded, pruning, unlist
from service.store.bundles.references import KEEPS, ListedBundle, Reason, judged_bundles
from service.store.bundles.removals import finish_removal, removed_keys, unfinished_removals
from service.store.bundles.table import BundleTable
from service.store.choices import BundleChoices
from service.store.errors import BundleStoreUnavailable
from service.store.ids import created_at
from service.store.models import Base, BundleChoiceRow, BundleRow, InspectionRow, ProposalRow, RecipeRow
from service.store.models.training import TrainingJobRow
from service.store.records import ChoiceDraft, Role, ShadowRecord
from service.store.schema import newest_revision
from service.store.session import writing
from service.store.shadows import add_shadow_verdicts
from service.store.store import Store
from tests.bundles import write_tiny_bundle
from tests.service.deployment.conftest import ADA, HangingWrite
from tests.service.store.test_bundle_store import objects
from tests.service.store.test_retention import aged_id
from tests.service.store.test_store import make_row

__all__ = ["objects"]
pytestmark = pytest.mark.usefixtures("aws_credentials")
NOW = datetime.now(UTC)
LIMIT = NOW - timedelta(days=30)
LONG_AGO = NOW - timedelta(days=400)
PRUNER = Actor("command-line", "ada@pc-7", "Ada (command line)")
SERVING, OLD = "a" * 64, "b" * 64
OTHER_COLUMNS = {
    # The list itself, and the history of changes, which never put anything in force again.
    "bundles.digest", "bundles.version", "bundles.manifest", "bundle_removals.digest",
    "audit_log.before", "audit_log.after", "audit_log.note", "audit_log.actor_id", "audit_log.address",
    "audit_log.previous_hash", "audit_log.hash",
    # A copy of what the row refers to in another column.
    "proposals.proposal", "proposals.scores",
    # Thresholds and rules: the id of a proposal, and no bundle.
    "recipes.recipe",
    # Other hashes and texts.
    "accounts.role", "api_keys.scopes", "api_keys.products", "api_keys.stations", "sessions.token_hash",
    "drift_alarms.reference", "drift_streams.reference", "drift_streams.reference_values", "drift_streams.progress",
    "drift_streams.history", "idempotency_keys.principal", "idempotency_keys.fingerprint",
    "inspections.regions", "inspections.method", "inspections.image_media_type", "inspections.image_sha256",
    "inspections.timings_ms", "inspections.image_pixels", "inspections.dropped_regions", "inspections.quality",
    "inspections.objections", "inspections.traceparent", "outbox.sink", "training_images.media_type",
    "training_images.sha256", "training_jobs.findings",
}  # fmt: skip


def test_every_column_that_can_hold_a_bundle_is_classified() -> None:
    """A new column has to be added to `KEEPS`, and to `reasons_to_keep`, or to the columns above."""
    found = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if column.name != "product"
        and (
            isinstance(column.type, JSON | Text)
            or (isinstance(column.type, String) and column.type.length in {12, 64, None})
            or re.search("bundle|digest|version", column.name)
        )
    }
    assert found - OTHER_COLUMNS - KEEPS.keys() == set()
    assert KEEPS.keys() <= found
    assert not OTHER_COLUMNS & KEEPS.keys()


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def list_bundle(store: Store, digest: str, *, product: str = "widget", **changes: Any) -> ListedBundle:
    values: dict[str, Any] = {"created_at": LONG_AGO, "stored_at": LONG_AGO, "size_bytes": 1000} | changes
    with writing(store.engine, "test") as session:
        row = BundleRow(digest=digest, product=product, version=digest[:12], status="available", manifest="", **values)
        session.add(row)
    return ListedBundle(product, digest[:12], digest, **values)


def choose(
    store: Store,
    digest: str | None,
    role: Role = "active",
    *,
    product: str = "widget",
    at: datetime = LONG_AGO,
    **links: Any,
) -> int:
    """Store a choice as of this time. Return its id."""
    with writing(store.engine, "test") as session:
        row = BundleChoiceRow(
            product=product, role=role, created_at=at, author="Ada", reason="test", bundle_digest=digest,
            **{"returns_to": None, **links},
        )  # fmt: skip
        session.add(row)
        session.flush()
        return row.id


def serve(store: Store) -> None:
    list_bundle(store, SERVING)
    choose(store, SERVING)


@dataclass(frozen=True)
class Case:
    """A product with an active bundle and another one, which something may need."""

    store: Store
    product: str
    serving: str
    other: str

    def choose(self, digest: str | None, role: Role = "active", **options: Any) -> int:
        return choose(self.store, digest, role, product=self.product, **options)

    def return_in(self, steps: int) -> None:
        """Let the active bundle return to the other one by this number of roll-backs."""
        link = self.choose(self.other)
        for step in range(steps - 1):
            link = self.choose(f"{step:064}", returns_to=link)
        self.choose(self.serving, returns_to=link)

    def add_recipe(self) -> None:
        recipe = Recipe(fail_threshold=1, review_threshold=0.5).model_dump(mode="json")
        with writing(self.store.engine, "test") as session:
            for revision, digest in ((1, self.serving), (2, self.other)):
                session.add(
                    RecipeRow(
                        product=self.product, revision=revision, created_at=LONG_AGO, author="Ada", reason="test",
                        bundle_digest=digest, recipe=recipe,
                    )
                )  # fmt: skip

    def propose(self, days: int) -> None:
        proposal = str(aged_id(timedelta(days=days)))
        with writing(self.store.engine, "test") as session:
            session.add(
                ProposalRow(
                    id=proposal,
                    product=self.product,
                    bundle_digest=self.other,
                    scores=[],
                    review_rate=None,
                    proposal={},
                )
            )

    def train(self, state: str) -> None:
        versions = [{"variant": "quick", "version": self.other[:12], "role": None}]
        with writing(self.store.engine, "test") as session:
            session.add(
                TrainingJobRow(
                    id=self.product, product=self.product, state=state, created_at=LONG_AGO, author="Ada", images=1,
                    image_bytes=1, duplicates=0, activate=False, quick_only=False, create_product=False,
                    versions=versions,
                )
            )  # fmt: skip

    def inspect(self, digest: str) -> str:
        inspection = aged_id(timedelta(days=100))
        self.store.writer.write(
            make_row(
                id=str(inspection), product=self.product, bundle_digest=digest, bundle_version=digest[:12],
                created_at=created_at(inspection),
            )
        )  # fmt: skip
        return str(inspection)

    def judge_as_shadow(self) -> None:
        verdict = ShadowRecord(
            inspection_id=self.inspect(self.serving), bundle_digest=self.other, bundle_version=self.other[:12],
            decision="pass", score=0.1, p_value=0.5, fail_threshold=0.2, review_threshold=0.1, provider="cpu",
            infer_ms=1.0,
        )  # fmt: skip
        add_shadow_verdicts(self.store.engine, [verdict])


CASES: list[tuple[Callable[[Case], object], Reason | None]] = [
    (lambda _: None, None),
    (lambda case: case.choose(case.other), "active"),
    (lambda case: case.return_in(1), "previous"),
    (lambda case: case.return_in(2), "previous"),
    (lambda case: case.return_in(3), None),
    (lambda case: case.choose(case.other, "shadow"), "shadow"),
    (lambda case: (case.choose(case.other, "shadow"), case.choose(None, "shadow")), None),
    (lambda case: (case.choose(case.other, "shadow"), case.choose(None, "shadow", at=NOW)), "deployed"),
    (lambda case: (case.choose(case.other), case.choose(case.serving, at=NOW)), "deployed"),
    (lambda case: case.choose(None), "none active"),
    (Case.add_recipe, "recipe"),
    (lambda case: case.propose(29), "proposal"),
    (lambda case: case.propose(31), None),
    (lambda case: case.train("running"), "training"),
    (lambda case: case.train("queued"), "training"),
    (lambda case: case.train("succeeded"), None),
    (lambda case: case.inspect(case.other), "inspection"),
    (Case.judge_as_shadow, "verdict"),
]


def test_bundle_is_kept_by_what_needs_it(store: Store) -> None:
    cases = []
    for number, (_, _) in enumerate(CASES):
        case = Case(store, f"product-{number}", f"{number:06}{'a' * 58}", f"{number:06}{'b' * 58}")
        cases.append(case)
        list_bundle(store, case.serving, product=case.product)
        case.choose(case.serving)
        list_bundle(store, case.other, product=case.product)
    before = find_unneeded(store.engine, LIMIT)
    assert {one.digest for one in before.bundles} == {case.other for case in cases}, "without a reference"
    for case, (prepare, _) in zip(cases, CASES, strict=True):
        prepare(case)
    found = find_unneeded(store.engine, LIMIT)
    wanted = {case.other for case, (_, reason) in zip(cases, CASES, strict=True) if reason is None}
    assert {one.digest for one in found.bundles} >= wanted
    assert {one.digest for one in found.bundles} - wanted <= {case.serving for case in cases}
    # As the transaction sees it that removes the bundle, after the list was made.
    outcomes = {one.digest: unlist(store.engine, one, before, PRUNER) for one in before.bundles}
    for number, (case, (_, reason)) in enumerate(zip(cases, CASES, strict=True)):
        assert outcomes[case.other] == (reason or "removed"), number


@pytest.mark.parametrize("column", ["created_at", "stored_at"])
def test_young_bundle_is_kept(store: Store, column: str) -> None:
    serve(store)
    changes: dict[str, Any] = {column: LIMIT + timedelta(minutes=1)}
    list_bundle(store, OLD, **changes)
    assert find_unneeded(store.engine, LIMIT).kept == {"active": 1, "age": 1}


def test_nothing_is_removed_of_a_product_without_a_choice(store: Store) -> None:
    list_bundle(store, OLD)
    list_bundle(store, SERVING)
    assert find_unneeded(store.engine, LIMIT).kept == {"none active": 2}


def test_inspection_that_was_stored_since_the_list_was_made_keeps_its_bundle(store: Store) -> None:
    serve(store)
    bundle = list_bundle(store, OLD)
    Case(store, "widget", SERVING, OLD).inspect(SERVING)
    found = find_unneeded(store.engine, LIMIT)
    store.writer.write(make_row(bundle_digest=OLD, bundle_version=OLD[:12]))
    assert unlist(store.engine, bundle, found, PRUNER) == "inspection"


def test_removed_records_free_a_bundle(store: Store) -> None:
    serve(store)
    list_bundle(store, OLD)
    Case(store, "widget", SERVING, OLD).inspect(OLD)
    assert find_unneeded(store.engine, LIMIT).kept == {"active": 1, "inspection": 1}
    assert judged_bundles(store.engine) == judged_bundles(store.engine, "widget") == {OLD}
    assert judged_bundles(store.engine, "bolt") == set()
    with writing(store.engine, "test") as session:
        session.execute(delete(InspectionRow))
    assert [one.digest for one in find_unneeded(store.engine, LIMIT).bundles] == [OLD]


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
