"""What needs a bundle of the bundle store keeps it. On SQLite and PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import JSON, String, Text, delete

from service.recipes.recipe import Recipe
from service.store.bundles.pruning import find_unneeded, unlist
from service.store.bundles.references import KEEPS, Reason, judged_bundles
from service.store.ids import created_at
from service.store.models import Base, InspectionRow, ProposalRow, RecipeRow
from service.store.models.training import TrainingJobRow
from service.store.records import Role, ShadowRecord
from service.store.session import writing
from service.store.shadows import add_shadow_verdicts
from service.store.store import Store
from tests.service.store.listed_bundles import (
    LIMIT,
    LONG_AGO,
    NOW,
    OLD,
    PRUNER,
    SERVING,
    choose,
    list_bundle,
    serve,
    store,
)
from tests.service.store.test_retention import aged_id
from tests.service.store.test_store import make_row

__all__ = ["store"]
pytestmark = pytest.mark.usefixtures("aws_credentials")
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
