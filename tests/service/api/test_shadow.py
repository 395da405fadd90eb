"""Shadow deployments over HTTP: a shadow judges the same images, is stored and compared, and has no effect."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from plumbline_client import Client
from service.bundle.bundle import Bundle
from service.deployment.shadow import QUEUE_LIMIT
from service.schemas.bundle import ComparisonRecord
from service.store.ids import parse_id
from service.store.inspections import get_inspection
from tests.bundles import SCORES, part, write_tiny_bundle
from tests.running_service import BAD, GOOD, HttpService, Serve, encode
from tests.service.api.test_bundles import FIRST_DAY, PRODUCT, WHO, activate, listed, make_bundle
from tests.service.api.test_health import value

BLACK = encode(part(brightness=0))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def two(models: Path) -> tuple[Bundle, Bundle]:
    """Write the bundle that serves by default, and an older one with a card that passes everything."""
    before = FIRST_DAY - timedelta(days=1)
    return make_bundle(models), write_tiny_bundle(models, scores=[1000 * score for score in SCORES], created_at=before)


def start(service: HttpService, bundle: Bundle) -> httpx.Response:
    return service.client.post(f"{PRODUCT}/bundles/{bundle.version}:shadow", json=WHO)


def stop(service: HttpService) -> httpx.Response:
    return service.client.post(f"{PRODUCT}/bundles:stop-shadow", json=WHO)


def compared(service: HttpService, **params: Any) -> ComparisonRecord:
    response = service.client.get(f"{PRODUCT}/bundles:compare", params=params)
    assert response.status_code == 200, response.text
    return ComparisonRecord.model_validate_json(response.content)


def runs(service: HttpService, outcome: str) -> float:
    return value(service, "inspection_shadow_runs_total", product="widget", outcome=outcome) or 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_shadow_judges_the_same_images_and_has_no_effect(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle]
) -> None:
    strict, lax = two
    with serve(models=models) as service:
        activate(service, strict)
        response = start(service, lax)
        assert (response.status_code, response.json()["role"], response.json()["version"]) == (
            200,
            "shadow",
            lax.version,
        )
        verdicts = [service.inspect(image).json() for image in (GOOD, BAD, BAD)]
        assert [verdict["decision"] for verdict in verdicts] == ["pass", "fail", "fail"]
        assert {verdict["bundle"]["version"] for verdict in verdicts} == {strict.version}
        wait_for(lambda: runs(service, "judged") == 3)
        pairs = {("pass", "pass"): 1, ("fail", "pass"): 2, ("fail", "fail"): 0}
        for (active, shadow), expected in pairs.items():
            labels = {"product": "widget", "active": active, "shadow": shadow}
            assert value(service, "inspection_shadow_verdicts_total", **labels) == expected
        comparison = compared(service)
        assert (comparison.active, comparison.shadow, comparison.pairs) == (strict.version, lax.version, 3)
        assert comparison.agreement["fail"] == {"pass": 2, "review": 0, "fail": 0}, "its own card passes them"
        assert (comparison.rejects.active_only, comparison.rejects.shadow_only) == (2, 0)
        assert [example.inspection_id for example in comparison.examples] == [verdicts[2]["id"], verdicts[1]["id"]]
        assert service.client.get(comparison.examples[0].links.image).content == BAD
        assert "2" in comparison.summary
        assert compared(service, limit=1).pairs == 1
        assert compared(service, shadow="0" * 12).pairs == 0
        assert listed(service) == {strict.version: "active", lax.version: "shadow"}
        assert service.client.get(PRODUCT).json()["shadow"]["digest"] == lax.digest
        recipes = service.client.get(f"{PRODUCT}/recipe/revisions").json()["items"]
        assert {recipe["bundle_digest"] for recipe in recipes[:1]} == {strict.digest}, "its recipe is never in force"


@pytest.mark.slow
def test_shadow_persists_over_a_restart_until_it_is_stopped(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle]
) -> None:
    strict, lax = two
    info = {"product": "widget", "version": lax.version, "sha256": lax.digest}
    with serve(models=models) as service:
        activate(service, strict)
        start(service, lax)
    with serve(models=models) as service:
        assert value(service, "inspection_shadow_model_info", **info) == 1
        service.inspect()
        wait_for(lambda: runs(service, "judged") == 1)
        assert stop(service).status_code == 200
        assert value(service, "inspection_shadow_model_info", **info) is None
        service.inspect()
        assert listed(service)[lax.version] == "available"
        refused = stop(service)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems#shadow-refused")
        assert compared(service).pairs == 1, "its decisions stay stored"
        history = service.client.get(f"{PRODUCT}/bundles:history", params={"role": "shadow"}).json()["items"]
        assert [choice["version"] for choice in history] == [None, lax.version]
    with serve(models=models) as service:
        assert lax.version not in service.client.get("/metrics").text


def test_shadow_that_is_activated_is_no_longer_a_shadow(serve: Serve, models: Path, two: tuple[Bundle, Bundle]) -> None:
    strict, lax = two
    with serve(models=models) as service:
        activate(service, strict)
        start(service, lax)
        assert activate(service, lax).status_code == 200
        assert listed(service) == {lax.version: "active", strict.version: "available"}
        for bundle, status in ((lax, 409), (strict, 200)):
            assert start(service, bundle).status_code == status


@pytest.mark.slow
def test_shadow_that_cannot_be_loaded_does_not_replace_the_earlier_one(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle]
) -> None:
    strict, lax = two
    wrong = make_bundle(models, offset=0.5)
    with serve(models=models) as service:
        activate(service, strict)
        start(service, lax)
        assert start(service, wrong).json()["type"] == "/problems#parity-failure"
        assert listed(service)[lax.version] == "shadow"


@pytest.mark.slow
def test_failure_of_the_shadow_is_counted_and_has_no_effect(serve: Serve, models: Path) -> None:
    good, fragile = make_bundle(models), make_bundle(models, 1, fails_on_black=True)
    with serve(models=models) as service:
        activate(service, good)
        start(service, fragile)
        assert service.inspect(BLACK).json()["decision"] == "fail"
        wait_for(lambda: runs(service, "failed") == 1)
        service.inspect(BAD)
        wait_for(lambda: runs(service, "judged") == 1)


def test_shadow_that_is_too_slow_drops_images_and_counts_them(
    serve: Serve, models: Path, two: tuple[Bundle, Bundle]
) -> None:
    strict, lax = two
    with serve(models=models) as service:
        activate(service, strict)
        row = get_inspection(service.store.engine, parse_id(service.inspect(BAD).json()["id"]))
        (image,) = service.settings.data.rglob("*.png")
        # Opening a pipe for reading blocks until it is opened for writing: it simulates a slow disk.
        aside = image.rename(image.with_suffix(".aside"))
        os.mkfifo(image)
        start(service, lax)
        for _ in range(QUEUE_LIMIT + 5):
            service.runtime.shadow.submit(row)
        assert service.inspect(GOOD).status_code == 201, "inspections do not wait for it"
        assert runs(service, "dropped") in {5, 6}, "one more if the first one was not taken yet"
        pipe = os.open(image, os.O_WRONLY)
        aside.rename(image)
        os.close(pipe)
        # At least the one whose image was a pipe. The others are verdicts about one inspection, which is stored once.
        wait_for(lambda: runs(service, "failed") >= 1)


def test_shadow_uses_the_chosen_rate(serve: Serve, models: Path, two: tuple[Bundle, Bundle]) -> None:
    strict, lax = two
    with serve(models=models) as service:
        activate(service, strict)
        start(service, lax)
        change = {"author": "Ada", "reason": "trial", "target_false_reject_rate": 0.1}
        assert service.client.put(f"{PRODUCT}/recipe", json=change).status_code == 200
        shadow = service.registry.shadows["widget"]
        assert shadow.recipe.target_false_reject_rate == 0.1
        assert shadow.recipe.fail_threshold == lax.card.scores[89]


@pytest.mark.slow
def test_client_starts_a_shadow_and_compares(serve: Serve, models: Path, two: tuple[Bundle, Bundle]) -> None:
    strict, lax = two
    with serve(models=models) as service, Client(f"http://127.0.0.1:{service.port}") as plumbline:
        assert plumbline.activate_bundle("widget", strict.version, author="a", reason="b").version == strict.version
        assert plumbline.shadow_bundle("widget", lax.version, author="a", reason="b").role == "shadow"
        plumbline.inspect("widget", BAD)
        wait_for(lambda: plumbline.compare_bundles("widget", limit=10).pairs == 1)
        assert plumbline.bundles("widget").shadow == lax.version
        assert plumbline.stop_shadow("widget", author="a", reason="b").version is None


def test_product_without_a_shadow_cannot_be_compared(service: HttpService) -> None:
    response = service.client.get(f"{PRODUCT}/bundles:compare")
    assert (response.status_code, response.json()["type"]) == (409, "/problems#shadow-refused")
