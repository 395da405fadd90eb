"""Products and their recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from service.bundle.bundle import Bundle
from service.schemas.product import Product
from service.schemas.recipe import RecipeHistory, RecipeRecord
from tests.bundles import part, tiny_draft, write_tiny_bundle
from tests.running_service import BAD, GOOD, HttpService, RunningService, Serve, encode

RECIPE = "/v1/products/widget/recipe"
REVISIONS = f"{RECIPE}/revisions"
WHO = {"author": "Ada", "reason": "too many false rejects"}


def put(service: HttpService, headers: dict[str, str] | None = None, **change: Any) -> httpx.Response:
    return service.client.put(RECIPE, json=WHO | change, headers=headers or {})


def test_product_names_bundle_calibration_and_recipe(service: RunningService, tiny_bundle: Bundle) -> None:
    listed = service.client.get("/v1/products").json()["items"]
    product = Product.model_validate_json(service.client.get("/v1/products/widget").content)
    assert [Product.model_validate(item) for item in listed] == [product]
    assert product.status == "ready"
    assert product.provider == "cpu"
    assert product.bundle is not None
    assert product.bundle.digest == tiny_bundle.digest
    assert product.calibration is not None
    assert product.calibration.images == 99
    assert product.calibration.smallest_false_reject_rate == 0.01
    assert product.recipe is not None
    assert product.recipe.recipe.target_false_reject_rate == 0.01


def test_first_recipe_is_the_default_of_the_card(serve: Serve) -> None:
    with serve() as service:
        history = RecipeHistory.model_validate_json(service.client.get(REVISIONS).content).items
        assert [(item.revision, item.author) for item in history] == [(1, "plumbline")]


def test_thresholds_set_by_hand_apply_from_the_next_inspection_on(serve: Serve) -> None:
    with serve() as service:
        strict = service.inspect(BAD).json()
        assert strict["decision"] == "fail"
        response = put(service, fail_threshold=10.0, review_threshold=9.0)
        assert response.status_code == 200, response.text
        record = RecipeRecord.model_validate_json(response.content)
        assert (record.revision, record.author, record.reason) == (2, "Ada", "too many false rejects")
        assert response.headers["etag"] == '"2"'
        lax = service.inspect(BAD).json()
        assert (lax["decision"], lax["recipe_revision"]) == ("pass", 2)
        assert lax["thresholds"]["target_false_reject_rate"] is None
        assert not lax["thresholds"]["certified"], "a threshold set by hand is not certified"
        # Earlier inspections keep their decisions and thresholds.
        assert service.client.get(strict["links"]["self"]).json() == strict


def test_rate_becomes_the_threshold_that_the_card_certifies(serve: Serve, tiny_bundle: Bundle) -> None:
    with serve() as service:
        recipe = put(service, target_false_reject_rate=0.1).json()["recipe"]
        # 100 * 0.9 = the 90th smallest of 99 scores.
        assert recipe["fail_threshold"] == tiny_bundle.card.scores[89]
        assert recipe["certified"] is True


def test_review_band_lies_between_the_thresholds(serve: Serve) -> None:
    with serve() as service:
        score = service.inspect(encode(part(brightness=140))).json()["score"]
        put(service, fail_threshold=score * 2, review_threshold=score / 2)
        verdict = service.inspect(encode(part(brightness=140))).json()
        assert verdict["decision"] == "review"
        assert len(verdict["regions"]) == 1


def test_history_keeps_every_revision(serve: Serve) -> None:
    with serve() as service:
        for rate in (0.1, 0.2, 0.3):
            put(service, target_false_reject_rate=rate)
        items = service.client.get(REVISIONS).json()["items"]
        assert [item["revision"] for item in items] == [4, 3, 2, 1]
        assert [item["recipe"]["target_false_reject_rate"] for item in items] == [0.3, 0.2, 0.1, 0.01]
        assert service.client.get(f"{REVISIONS}/3").json() == items[1]
        assert service.client.get(RECIPE).json() == items[0]


@pytest.mark.slow
def test_recipe_persists_over_a_restart(serve: Serve) -> None:
    with serve() as service:
        changed = put(service, fail_threshold=5.0, review_threshold=4.0).json()
    with serve() as service:
        assert service.client.get(RECIPE).json() == changed


@pytest.mark.slow
@pytest.mark.parametrize("expectation", [{"if-match": '"1"'}, {"if-match": "1"}, None])
def test_change_against_the_current_revision_is_accepted_once(serve: Serve, expectation: dict[str, str] | None) -> None:
    change: dict[str, Any] = {"target_false_reject_rate": 0.1}
    if expectation is None:
        change["expected_revision"] = 1
    with serve() as service:
        assert put(service, expectation, **change).status_code == 200
        second = put(service, expectation, **change)
        assert second.status_code == 412
        assert second.json()["current_revision"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"fail_threshold": 1.0},
        {"fail_threshold": 1.0, "review_threshold": 0.5, "target_false_reject_rate": 0.1},
        {"fail_threshold": "NaN", "review_threshold": 0.5},
        {"review_rate": 0.1},
        {"target_false_reject_rate": 0.0},
        {"target_false_reject_rate": 0.2, "review_rate": 0.1},
        {"target_false_reject_rate": 0.1, "reason": "  "},
        {"target_false_reject_rate": 0.1, "surprise": 1},
    ],
)
def test_invalid_change_changes_nothing(service: HttpService, change: dict[str, Any]) -> None:
    before = service.client.get(REVISIONS).json()
    response = put(service, **change)
    assert response.status_code == 422, response.text
    assert service.client.get(REVISIONS).json() == before


@pytest.mark.slow
def test_inspections_during_changes_name_a_recipe_that_fits_their_thresholds(serve: Serve) -> None:
    with serve() as service:
        for rate in (0.1, 0.2, 0.4):
            put(service, target_false_reject_rate=rate)
            verdict = service.inspect(GOOD).json()
            revision = service.client.get(f"{REVISIONS}/{verdict['recipe_revision']}").json()
            assert revision["recipe"]["fail_threshold"] == verdict["thresholds"]["fail"]
            assert revision["bundle_digest"] == verdict["bundle"]["digest"]


def test_change_keeps_values_that_it_does_not_contain(serve: Serve) -> None:
    with serve() as service:
        first = put(service, fail_threshold=0.3, review_threshold=0.1, heatmap={"low": 0.01}).json()["recipe"]
        second = put(service, heatmap={"high": 0.4}).json()["recipe"]
        assert second == first | {"heatmap": {"low": 0.01, "high": 0.4}}
        third = put(service, target_false_reject_rate=0.1).json()["recipe"]
        assert third["heatmap"] == {"low": 0.01, "high": 0.4}
        assert third["derivation"] == "card"
        fourth = put(service, heatmap={"low": None}).json()["recipe"]
        assert fourth == third | {"heatmap": {"low": None, "high": 0.4}}, "null resets one value"
        fifth = put(service, heatmap=None).json()["recipe"]
        assert fifth == third | {"heatmap": {"low": None, "high": None}}, "null resets a whole section, too"


@pytest.mark.slow
def test_heatmap_is_drawn_on_the_scale_of_the_recipe_in_force(serve: Serve) -> None:
    faint = encode(part(brightness=180))  # each cell is 0.2 above gray

    def colours(inspected: dict[str, Any]) -> bytes:
        return service.client.get(inspected["links"]["heatmap"], params={"format": "png"}).content

    with serve() as service:
        narrow = service.inspect(faint).json()
        put(service, heatmap={"low": 0.5, "high": 0.9})
        wide = service.inspect(faint).json()
        shown = cv2.imdecode(np.frombuffer(colours(wide), np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        assert shown[32, 32].tolist() == [180, 180, 180], "there is no colour below `low`"
        assert colours(narrow) != colours(wide), "earlier inspections keep their scale"
        assert narrow["decision"] == wide["decision"], "the scale has no effect on the decision"


def test_heatmap_scale_in_the_wrong_order_is_refused(service: HttpService) -> None:
    for wrong in ({"low": 0.2, "high": 0.1}, {"low": 99.0}, {"high": -1.0}):
        response = put(service, heatmap=wrong)
        assert response.status_code == 422, response.text
        assert "heatmap.high" in response.json()["detail"]


STATEMENT = "≤ 1 % on average, ≤ 3 % with 95 % confidence (n = 99)"


def test_every_rate_is_stated_with_the_bound_for_this_calibration(serve: Serve) -> None:
    with serve() as service:
        product = service.client.get("/v1/products/widget").json()
        bound = product["calibration"]["smallest_rate_bound"]
        assert bound["statement"] == STATEMENT
        assert (bound["average"], bound["confidence"], bound["images"]) == (0.01, 0.95, 99)
        assert bound["confident"] == pytest.approx(1 - 0.05 ** (1 / 99))
        assert product["recipe"]["false_reject_bound"]["statement"] == STATEMENT
        assert service.client.get(RECIPE).json()["false_reject_bound"]["statement"] == STATEMENT
        assert service.inspect(GOOD).json()["thresholds"]["false_reject_bound"]["statement"] == STATEMENT

        changed = put(service, target_false_reject_rate=0.1).json()
        assert changed["false_reject_bound"]["statement"] == "≤ 10 % on average, ≤ 16 % with 95 % confidence (n = 99)"
        extrapolated = put(service, target_false_reject_rate=0.001, extrapolate=True).json()["false_reject_bound"]
        assert not extrapolated["certified"]
        assert extrapolated["statement"] == f"about 0.1 %, extrapolated; certified: {STATEMENT}"
        by_hand = put(service, fail_threshold=9.0, review_threshold=8.0).json()
        assert by_hand["false_reject_bound"] is None
        assert service.inspect(GOOD).json()["thresholds"]["false_reject_bound"] is None


def test_recipe_file_states_the_bound_and_can_be_imported_again(serve: Serve) -> None:
    with serve() as service:
        toml = service.client.get(RECIPE, headers={"accept": "application/toml"}).text
        assert f"# Good parts that fail: {STATEMENT}" in toml


@pytest.mark.slow
def test_product_shows_what_its_calibration_does_not_cover(serve: Serve, tmp_path: Path) -> None:
    shift = {"groups": 4, "images": 40, "known_rate": 0.05, "new_rate": 0.2, "worst_rate": 0.5, "worst_group": "lot-4"}
    sanity = {"images": 10, "synthetic": 60, "image_auroc": 0.55, "pixel_auroc": 0.5}
    training = tiny_draft().training.model_copy(update={"weak": ["the image AUROC is 0.55"]})
    models = tmp_path / "models"
    card = {"group_shift": shift, "sanity": sanity}
    write_tiny_bundle(models, scores=[float(value) for value in range(10)], card=card, training=training)
    with serve(models=models) as service:
        product = service.client.get("/v1/products/widget").json()
        calibration = product["calibration"]
        assert (calibration["group_shift"], calibration["sanity"]) == (shift, sanity)
        few, session, estimated = calibration["notes"]
        assert "Few calibration images" in few
        assert "One capture group" in session
        assert "lot-4" in estimated
        assert product["bundle"]["weak"] == ["the image AUROC is 0.55"]
        (bundle,) = service.client.get("/v1/products/widget/bundles").json()["items"]
        assert bundle["bundle"]["weak"] == ["the image AUROC is 0.55"]
