"""Retention by size, and the guard: a policy that removes more than it keeps needs an admin and a confirmation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from service.bundle.bundle import Bundle
from service.deployment.recipes import recipe_in_force
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.recipes.sections import StorageLimit
from service.serving.retention import RetentionSweeper
from service.store.audit import Actor, AuditFilter, list_audit
from service.store.choices import BundleChoices
from service.store.errors import RemovalNotConfirmed
from service.store.recipes import append_recipe, current_recipe
from service.store.records import ChoiceDraft, RecipeDraft
from service.store.removal import RetentionPolicy, estimate_removal, removed_by_changes
from service.store.session import reading
from service.store.store import Store
from tests.service.store.test_retention import add, files
from tests.service.store.test_store import ADA

ADMIN = replace(ADA, name="Grace", is_admin=True)
DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path / "data")
    yield opened
    opened.close()


def estimate(store: Store, policy: dict[str, Any]) -> dict[str, tuple[int, int]]:
    with reading(store.engine) as session:
        found = estimate_removal(session, "widget", RetentionPolicy.model_validate(policy), datetime.now(UTC))
    return {name: (item.removed, item.kept) for name, item in found.items()}


def put(store: Store, bundle: Bundle, actor: Actor = ADA, confirm: int | None = None, **parts: Any) -> None:
    current = current_recipe(store.engine, "widget")
    recipe = Recipe.default(bundle.card.scores) if current is None else current.recipe
    changed = recipe.changed(parts)
    append_recipe(store.engine, bundle, changed, actor=actor, reason="b", confirm_removal=confirm)


@pytest.fixture
def filled(store: Store, tiny_bundle: Bundle) -> Store:
    """Six inspections that passed, of 6 to 1 days ago, and two that failed; each has 100 bytes."""
    recipe_in_force(store.engine, tiny_bundle)
    for days in range(6, 0, -1):
        add(store, days * DAY, decision="pass", artefact_bytes=100)
    for days in (5, 2):
        add(store, days * DAY, artefact_bytes=100)
    add(store, 9 * DAY, decision="pass", product="gadget", artefact_bytes=100)
    return store


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, {"pass": (0, 6), "fail": (0, 2)}),
        ({"retention": {"pass": {"days": 3.5}}}, {"pass": (3, 3), "fail": (0, 2)}),
        ({"retention": {"pass": {"count": 4}}}, {"pass": (2, 4), "fail": (0, 2)}),
        ({"retention": {"pass": {"days": 1.5, "count": 4}}}, {"pass": (5, 1), "fail": (0, 2)}),
        ({"retention": {"pass": {"count": 99}, "review": {"count": 0}}}, {"pass": (0, 6), "fail": (0, 2)}),
        ({"storage": {"max_bytes": 800}}, {"pass": (0, 6), "fail": (0, 2)}),
        ({"storage": {"max_bytes": 799}}, {"pass": (1, 5), "fail": (0, 2)}),
        ({"storage": {"max_bytes": 150}}, {"pass": (6, 0), "fail": (1, 1)}),
        ({"storage": {"max_bytes": 0}}, {"pass": (6, 0), "fail": (2, 0)}),
        ({"storage": {"max_bytes": 500, "keep_longer": ["pass"]}}, {"pass": (1, 5), "fail": (2, 0)}),
        (
            {"retention": {"pass": {"count": 4}, "fail": {"count": 1}}, "storage": {"max_bytes": 300}},
            {"pass": (4, 2), "fail": (1, 1)},
        ),
    ],
)
def test_removal_is_estimated_per_decision(filled: Store, policy: dict[str, Any], expected: dict[str, Any]) -> None:
    assert estimate(filled, policy) == expected


@pytest.mark.parametrize(
    "policy",
    [
        {"retention": {"pass": {"days": 1.5, "count": 4}, "fail": {"count": 1}}},
        {"storage": {"max_bytes": 150}},
        {"storage": {"max_bytes": 500, "keep_longer": ["pass"]}},
        {"retention": {"pass": {"count": 4}, "fail": {"count": 1}}, "storage": {"max_bytes": 300}},
    ],
)
def test_sweeps_remove_what_was_estimated_and_no_record(
    filled: Store, tiny_bundle: Bundle, policy: dict[str, Any]
) -> None:
    expected = estimate(filled, policy)
    put(filled, tiny_bundle, ADMIN, confirm=8, **policy)
    draft = ChoiceDraft("widget", "active", tiny_bundle.digest, ADA, "b", "bundle:activate")
    BundleChoices(filled.engine).append(draft)
    before = rows(filled)
    sweeper = RetentionSweeper(filled, lambda: ["widget"], Metrics(), interval_s=600, limit=2)
    while sweeper.sweep():
        pass
    sweeper.sweep()
    assert estimate(filled, {}) == {name: (0, kept) for name, (_, kept) in expected.items() if kept}
    assert len(files(filled)) == 2 * (sum(kept for _, kept in expected.values()) + 1), "and the other product's"
    assert rows(filled) == before, "inspections, revisions, choices and changes stay"


def rows(store: Store) -> dict[str, int]:
    with store.engine.connect() as connection:
        return {
            table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608
            for table in ("inspections", "recipes", "bundle_choices", "audit_log", "proposals")
        }


def test_what_failed_is_kept_longest_by_default() -> None:
    assert StorageLimit().removal_order == ("pass", "invalid", "review", "fail")
    assert StorageLimit(keep_longer=()).removal_order == ("pass", "invalid", "review", "fail")
    assert StorageLimit(keep_longer=("invalid", "pass")).removal_order == ("review", "fail", "pass", "invalid")
    with pytest.raises(ValidationError, match="names a decision twice"):
        StorageLimit(keep_longer=("pass", "pass"))


def test_policy_that_keeps_at_least_half_needs_no_confirmation(filled: Store, tiny_bundle: Bundle) -> None:
    put(filled, tiny_bundle, retention={"pass": {"count": 3}, "fail": {"count": 1}})
    revision = current_recipe(filled.engine, "widget")
    assert revision is not None
    assert revision.recipe.retention.keys() == {"pass", "fail"}


@pytest.mark.parametrize(
    "parts",
    [
        {"retention": {"pass": {"count": 2}}},
        {"retention": {"pass": {"days": 0.001}}},
        {"retention": {"fail": {"count": 0}}},  # most images would stay, but none of those that failed
        {"storage": {"max_bytes": 350}},
    ],
)
def test_policy_that_removes_more_than_it_keeps_is_refused(
    filled: Store, tiny_bundle: Bundle, parts: dict[str, Any]
) -> None:
    before = rows(filled)
    found = estimate(filled, parts)
    removed, kept = (sum(item[index] for item in found.values()) for index in (0, 1))
    for actor, confirm in ((ADA, None), (ADA, removed), (ADMIN, None), (ADMIN, removed - 1)):
        with pytest.raises(RemovalNotConfirmed) as caught:
            put(filled, tiny_bundle, actor, confirm, **parts)
        assert (caught.value.extensions["removed"], caught.value.extensions["kept"]) == (removed, kept)
        assert ("scope `admin`" in caught.value.detail) == (actor is ADA)
        assert ("the scope `admin` is missing" in caught.value.detail) == (actor is ADA)
        assert f"confirm_removal={removed}" in caught.value.detail
    assert rows(filled) == before

    put(filled, tiny_bundle, ADMIN, removed, **parts)
    (entry,) = list_audit(filled.engine, AuditFilter(action="retention:change"))
    assert (entry.actor, entry.after["confirm_removal"]) == ("Grace", removed)


def test_other_changes_and_milder_policies_need_no_confirmation(filled: Store, tiny_bundle: Bundle) -> None:
    put(filled, tiny_bundle, ADMIN, 99, retention={"pass": {"count": 1}})
    # Nothing was swept yet: these policies remove most images as well, but not because of the change.
    put(filled, tiny_bundle, regions={"min_area_px": 9})
    put(filled, tiny_bundle, retention={"pass": {"count": 2}})
    with pytest.raises(RemovalNotConfirmed):
        put(filled, tiny_bundle, retention={"pass": {"count": 1}})


def test_files_that_were_removed_before_do_not_count(filled: Store, tiny_bundle: Bundle) -> None:
    put(filled, tiny_bundle, ADMIN, 99, retention={"pass": {"count": 2}})
    RetentionSweeper(filled, lambda: ["widget"], Metrics(), interval_s=600).sweep()
    put(filled, tiny_bundle, retention={"pass": {"count": 1}})


def test_activation_with_a_stricter_policy_is_guarded(filled: Store, tiny_bundle: Bundle) -> None:
    recipe = Recipe.default(tiny_bundle.card.scores).changed({"retention": {"pass": {"count": 0}}})
    choice = ChoiceDraft("widget", "active", tiny_bundle.digest, ADA, "b", "bundle:activate")
    choices, before = BundleChoices(filled.engine), rows(filled)
    draft = RecipeDraft("widget", tiny_bundle.digest, recipe, ADA, "b", "recipe:derive")
    with pytest.raises(RemovalNotConfirmed):
        choices.append_with_recipe([choice], draft)
    assert rows(filled) == before
    choices.append_with_recipe([choice], replace(draft, actor=ADMIN, confirm_removal=6))


def test_unreadable_policy_in_force_counts_as_none(filled: Store, tiny_bundle: Bundle) -> None:
    with filled.engine.begin() as connection:
        connection.execute(text("""UPDATE recipes SET recipe = '{"retention": {"pass": {"weeks": 1}}}'"""))
    recipe = Recipe.default(tiny_bundle.card.scores).changed({"retention": {"pass": {"count": 0}}})
    with pytest.raises(RemovalNotConfirmed):
        append_recipe(filled.engine, tiny_bundle, recipe, actor=ADA, reason="b")


def sweep(store: Store) -> None:
    RetentionSweeper(store, lambda: ["widget"], Metrics(), interval_s=600).sweep()


def test_several_milder_changes_need_the_confirmation_of_one(filled: Store, tiny_bundle: Bundle) -> None:
    put(filled, tiny_bundle, retention={"pass": {"count": 4}})  # removes 2 of 6
    sweep(filled)
    with pytest.raises(RemovalNotConfirmed) as caught:
        put(filled, tiny_bundle, retention={"pass": {"count": 2}})  # 2 of 4 more: 4 in total
    assert caught.value.extensions["by_decision"]["pass"] == {"removed": 2, "kept": 2}
    assert caught.value.extensions["removed_before"] == {"pass": 2}
    assert "those of 2 in the 30 days before" in caught.value.detail
    put(filled, tiny_bundle, retention={"pass": {"count": 3}})  # 3 of 6 in total
    put(filled, tiny_bundle, ADMIN, 1, retention={"pass": {"count": 3}, "fail": {"count": 9}})
    sweep(filled)
    with pytest.raises(RemovalNotConfirmed):
        put(filled, tiny_bundle, ADMIN, retention={"pass": {"count": 2}})
    put(filled, tiny_bundle, ADMIN, 1, retention={"pass": {"count": 2}})
    sweep(filled)
    put(filled, tiny_bundle, retention={"pass": {"count": 1}})  # a new sum begins after the confirmation


def test_number_of_a_confirmation_that_was_not_needed_starts_no_new_sum(filled: Store, tiny_bundle: Bundle) -> None:
    put(filled, tiny_bundle, ADA, 99, retention={"pass": {"count": 4}})
    sweep(filled)
    with pytest.raises(RemovalNotConfirmed):
        put(filled, tiny_bundle, ADA, 99, retention={"pass": {"count": 2}})


def test_milder_policy_before_the_sweep_takes_its_removal_back_and_is_no_credit(
    filled: Store, tiny_bundle: Bundle
) -> None:
    for _ in range(3):
        put(filled, tiny_bundle, retention={"pass": {"count": 3}})
        put(filled, tiny_bundle, retention={"pass": {"count": 6}})
    put(filled, tiny_bundle, retention={"pass": {"count": 5}})
    sweep(filled)
    for _ in range(3):
        put(filled, tiny_bundle, retention={"pass": {"count": 6}})
        put(filled, tiny_bundle, retention={"pass": {"count": 5}})
    put(filled, tiny_bundle, retention={"pass": {"count": 3}})
    sweep(filled)
    with pytest.raises(RemovalNotConfirmed):
        put(filled, tiny_bundle, retention={"pass": {"count": 2}})


def test_removals_of_other_products_and_before_the_window_do_not_count(
    filled: Store, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(filled, tiny_bundle, retention={"pass": {"count": 4}})
    sweep(filled)
    with reading(filled.engine) as session:
        now = datetime.now(UTC)
        assert removed_by_changes(session, "widget", now - DAY) == {"pass": 2, "fail": 0}
        assert removed_by_changes(session, "gadget", now - DAY) == {}
        assert removed_by_changes(session, "widget", now) == {}
    monkeypatch.setattr("service.store.removal.WINDOW", timedelta(0))
    put(filled, tiny_bundle, retention={"pass": {"count": 2}})


def test_regular_removal_is_no_effect_of_a_change(filled: Store, tiny_bundle: Bundle) -> None:
    put(filled, tiny_bundle, retention={"pass": {"count": 6}})
    for _ in range(30):
        add(filled, timedelta(hours=5), decision="pass", artefact_bytes=100)
        sweep(filled)
    put(filled, tiny_bundle, retention={"pass": {"count": 5}})
