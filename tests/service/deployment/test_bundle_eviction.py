"""Which bundle leaves the memory for another one."""

from __future__ import annotations

from service.deployment.rollout import Rollout
from service.monitoring.metrics import Metrics
from tests.service.deployment.conftest import SIGNATURE, TIMEOUT_S, Deployment, is_closed
from tests.service.deployment.test_bundle_memory import Open, bundles, in_memory, no_stay, open_registry, score, value

__all__ = ["bundles", "no_stay", "open_registry"]
PRODUCTS = ("bolt", "nut", "rivet")


def test_least_recently_used_bundle_leaves(open_registry: Open) -> None:
    metrics = Metrics()
    registry = open_registry(2, metrics=metrics)
    for product in PRODUCTS:
        score(registry, product)
    assert in_memory(registry) == {"nut", "rivet"}
    nut = registry.get("nut").inspector
    before = value(metrics, "inspection_bundle_evictions_total")
    score(registry, "rivet")
    score(registry, "bolt")
    assert in_memory(registry) == {"bolt", "rivet"}
    assert is_closed(nut)
    assert before is not None
    assert value(metrics, "inspection_bundle_evictions_total") == before + 1


def test_bundle_that_was_used_once_leaves_before_one_that_is_used_regularly(open_registry: Open) -> None:
    registry = open_registry(2)
    for product in ("bolt", "bolt", "nut"):
        score(registry, product)
    assert in_memory(registry) == {"bolt", "nut"}
    score(registry, "rivet")
    assert in_memory(registry) == {"bolt", "rivet"}, "although bolt was used before nut"
    score(registry, "nut")
    assert in_memory(registry) == {"bolt", "nut"}
    score(registry, "rivet")
    assert in_memory(registry) == {"nut", "rivet"}, "both were used twice since bolt was, also while not in memory"


def test_bundle_that_was_loaded_and_not_used_yet_does_not_leave_first(open_registry: Open) -> None:
    registry = open_registry(2)
    for product in ("bolt", "bolt", "rivet", "rivet"):
        score(registry, product)
    assert in_memory(registry) == {"bolt", "rivet"}, "whichever the start loaded"
    registry.get("nut").served.wait_loaded(TIMEOUT_S)
    score(registry, "bolt")
    assert in_memory(registry) == {"nut", "bolt"}, "its image waits for it"


def test_bundle_that_was_activated_does_not_leave_after_its_first_image(
    open_registry: Open, unloaded: Deployment
) -> None:
    registry = open_registry(2)
    rollout = Rollout(registry, unloaded.store.engine, Metrics(), unloaded.rollout.uploads)
    for product in ("nut", "nut"):
        score(registry, product)
    rollout.activate("nut", unloaded.old["nut"].version, **SIGNATURE)
    for product in ("nut", "rivet", "bolt"):
        score(registry, product)
    assert in_memory(registry) == {"nut", "bolt"}, "rivet was used once, and nut was activated before its image"
