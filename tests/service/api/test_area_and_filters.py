"""ROI, ignore polygons and region filters: which area of an image is judged, and which regions count."""

from __future__ import annotations

from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from service.inspection.inspector import Inspector
from service.recipes.recipe import Recipe
from tests.bundles import part
from tests.running_service import BAD, GOOD, HttpService, Serve, encode

RECIPE = "/v1/products/widget/recipe"
REVISIONS = f"{RECIPE}/revisions"
WHO = {"author": "Ada", "reason": "the serial number is no defect"}
LEFT, RIGHT = [[0, 0], [32, 0], [32, 64], [0, 64]], [[32, 0], [64, 0], [64, 64], [32, 64]]
# The defect of BAD is 8 x 8 pixels at (20, 30). This covers 4 x 3 cells of 4 x 4 pixels, by three quarters at least.
AROUND_SPOT = [[17, 28], [31, 28], [31, 40], [17, 40]]


def put(service: HttpService, **change: Any) -> httpx.Response:
    return service.client.put(RECIPE, json=WHO | change)


def changed(service: HttpService, **change: Any) -> dict[str, Any]:
    response = put(service, **change)
    assert response.status_code == 200, response.text
    record: dict[str, Any] = response.json()
    return record


def drawn(service: HttpService, verdict: dict[str, Any]) -> npt.NDArray[np.uint8]:
    content = service.client.get(verdict["links"]["heatmap"], params={"format": "png"}).content
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("polygons", "decision", "judged_share"),
    [
        ({"roi": [LEFT]}, "fail", 0.5),
        ({"roi": [RIGHT]}, "pass", 0.5),
        ({"roi": [LEFT, RIGHT]}, "fail", 1.0),
        ({"ignore": [LEFT]}, "pass", 0.5),
        ({"ignore": [RIGHT]}, "fail", 0.5),
        ({"ignore": [AROUND_SPOT]}, "pass", 1 - 12 / 256),
        ({"roi": [AROUND_SPOT]}, "fail", 12 / 256),
        ({"roi": [LEFT], "ignore": [AROUND_SPOT]}, "pass", 0.5 - 12 / 256),
    ],
)
def test_only_the_area_inside_the_roi_and_not_ignored_is_judged(
    serve: Serve, polygons: dict[str, Any], decision: str, judged_share: float
) -> None:
    with serve() as service:
        whole = service.inspect(BAD).json()
        assert (whole["decision"], whole["judged_share"]) == ("fail", 1.0)
        assert not whole["thresholds"]["conservative"]
        changed(service, **polygons)
        verdict = service.inspect(BAD).json()
        assert verdict["decision"] == decision
        assert verdict["judged_share"] == pytest.approx(judged_share)
        assert verdict["score"] <= whole["score"], "a smaller area never has a higher score"
        assert verdict["p_value"] >= whole["p_value"]
        assert verdict["thresholds"]["conservative"] == (judged_share < 1)
        assert verdict["thresholds"]["certified"], "the bound still holds"
        assert len(verdict["regions"]) == (decision == "fail")
        assert service.client.get(verdict["links"]["self"]).json() == verdict


def test_region_outside_the_roi_is_not_reported_beside_one_inside(serve: Serve) -> None:
    two = part(spot=(20, 30, 8))
    two[30:38, 44:52] = 255
    with serve() as service:
        assert len(service.inspect(encode(two)).json()["regions"]) == 2
        changed(service, roi=[LEFT])
        (region,) = service.inspect(encode(two)).json()["regions"]
        x, _, width, _ = region["bbox"]
        assert x + width <= 32


@pytest.mark.slow
def test_area_that_is_not_judged_is_dimmed_and_without_colour(serve: Serve) -> None:
    with serve() as service:
        before = service.inspect(BAD).json()
        changed(service, roi=[RIGHT])
        verdict = service.inspect(BAD).json()
        image = drawn(service, verdict).astype(int)
        assert (image[:, 33:] == 128).all(), "judged and good: the image is unchanged"
        hidden = image[:, :31]
        assert (hidden.max(axis=2) == hidden.min(axis=2)).all(), "no colour"
        assert set(np.unique(hidden)) == {51, 102, 128}, "part and defect are dimmed to two fifths and hatched"
        # The heatmap of an earlier inspection uses the area of its own revision.
        changed(service, roi=None)
        np.testing.assert_array_equal(drawn(service, verdict), image)
        assert (drawn(service, before)[:, :12] == 128).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ({"roi": [[[0, 0], [10, 0]]]}, "at least 3"),
        ({"roi": [[[0, 0], [10, 0], [20, 0]]]}, "intersects"),
        ({"roi": [[[0, 0], [10, 0], [10, 0.1]]]}, "encloses 0.5 square pixels"),
        ({"roi": [[[0, 0], [10, 10], [10, 0], [0, 10]]]}, "the edge after point 1 intersects the edge after point 3"),
        ({"roi": [[[0, 0], [10, 0], [10, 10], [5, 0], [0, 10]]]}, "intersects"),
        ({"roi": [[[0, 0], [10, 0], [5, 0], [5, 10]]]}, "intersects"),
        ({"roi": [[[0, 0], [10, 0], [10, 10], [0, 0]]]}, "is repeated"),
        ({"roi": [[[-1, 0], [10, 0], [10, 10]]]}, "give a number of at least 0"),
        ({"roi": [[[0, 0], [70_000, 0], [10, 10]]]}, "give a number of at most 65535"),
        ({"roi": [[[0, 0, 0], [10, 0, 0], [10, 10, 0]]]}, "more than the 2 allowed items"),
        ({"roi": [[["a", 0], [10, 0], [10, 10]]]}, "is not a number"),
        ({"roi": [LEFT], "ignore": [LEFT]}, "nothing would be judged"),
        ({"roi": [LEFT], "ignore": [[[0, 0], [99, 0], [99, 99], [0, 99]]]}, "nothing would be judged"),
        ({"regions": {"min_area_px": -1}}, "give a number of at least 0"),
        ({"regions": {"max_count": 0}}, "give a number of at least 1"),
        ({"regions": {"min_aera_px": 1}}, "did you mean `min_area_px`?"),
    ],
)
def test_invalid_polygons_and_filters_are_refused_as_a_whole(
    service: HttpService, polygons: dict[str, Any], message: str
) -> None:
    before = service.client.get(REVISIONS).json()
    # A valid value beside an invalid one is not applied either.
    response = put(service, target_false_reject_rate=0.3, **polygons)
    assert response.status_code == 422, response.text
    assert message in response.json()["detail"]
    assert service.client.get(REVISIONS).json() == before


def test_values_that_contradict_each_other_are_refused(serve: Serve) -> None:
    with serve() as service:
        changed(service, roi=[LEFT])
        response = put(service, ignore=[LEFT])
        assert response.status_code == 422
        assert response.json()["type"].endswith("#invalid-recipe")
        assert service.client.get(RECIPE).json()["recipe"]["ignore"] == []


def test_polygons_must_fit_the_declared_image_size(serve: Serve) -> None:
    with serve() as service:
        changed(service, pixels={"width": 64, "height": 64})
        for wrong in ({"roi": [[[0, 0], [65, 0], [65, 9]]]}, {"ignore": [[[0, 0], [64, 0], [64, 64], [0, 64]]]}):
            response = put(service, **wrong)
            assert response.status_code == 422, response.text
            assert "outside the image" in response.text or "nothing would be judged" in response.text
        changed(service, roi=[LEFT])
        assert put(service, pixels={"width": 31}).status_code == 422, "the reverse order is refused, too"


def test_filters_soften_the_decision_and_the_response_shows_it(serve: Serve) -> None:
    with serve() as service:
        changed(service, fail_threshold=0.4, review_threshold=0.1)
        plain = service.inspect(BAD).json()
        assert (plain["decision"], plain["filtered"]) == ("fail", None)
        (region,) = plain["regions"]

        changed(service, regions={"min_area_px": region["area_px"]})
        assert service.inspect(BAD).json()["decision"] == "fail", "a region at the limit counts"

        changed(service, regions={"min_area_px": region["area_px"] + 1})
        softer = service.inspect(BAD)
        verdict = softer.json()
        assert verdict["decision"] == "review", "the region is large enough at the review threshold"
        assert verdict["score"] == plain["score"]
        assert verdict["filtered"] == {
            "changed_verdict": True, "decision_by_score": "fail", "dropped_regions": {"area": 1},
        }  # fmt: skip
        assert verdict["regions"][0]["area_px"] > region["area_px"]
        assert softer.headers["x-plumbline-decision-by-score"] == "fail"

        changed(service, regions={"min_area_px": 1000})
        verdict = service.inspect(BAD).json()
        assert (verdict["decision"], verdict["regions"]) == ("pass", [])
        assert verdict["filtered"]["decision_by_score"] == "fail"
        assert service.client.get(verdict["links"]["self"]).json() == verdict
        assert 'inspection_softened_total{product="widget"} 2.0' in service.client.get("/metrics").text


def test_filter_that_does_not_change_the_decision_reports_dropped_regions(serve: Serve) -> None:
    two = part(spot=(20, 30, 8))
    two[0:2, 0:2] = 255
    with serve() as service:
        assert len(service.inspect(encode(two)).json()["regions"]) == 2
        changed(service, regions={"border_margin_px": 5})
        verdict = service.inspect(encode(two)).json()
        assert len(verdict["regions"]) == 1
        assert verdict["filtered"] == {
            "changed_verdict": False, "decision_by_score": "fail", "dropped_regions": {"border": 1},
        }  # fmt: skip
        changed(service, regions=None)
        assert service.inspect(encode(two)).json()["filtered"] is None


@pytest.mark.slow
def test_stored_inspection_contains_what_judging_it_again_needs(serve: Serve, tiny_bundle: Any) -> None:
    recipes: list[dict[str, Any]] = [
        {"roi": [LEFT], "ignore": [[[0, 0], [64, 0], [64, 33], [0, 33]]]},
        {"regions": {"min_area_px": 30}},
        {"fail_threshold": 0.4, "review_threshold": 0.1, "roi": None, "regions": {"border_margin_px": 3}},
    ]
    with serve() as service:
        for change in recipes:
            changed(service, **change)
            for image in (GOOD, BAD):
                service.inspect(image)
        inspector = Inspector.load(tiny_bundle.path)
        items = service.client.get("/v1/inspections").json()["items"]
        assert len(items) == 6
        for item in items:
            record = service.client.get(f"{REVISIONS}/{item['recipe_revision']}").json()
            del record["recipe"]["guarantee"]  # it depends on the inspections since
            assert record["bundle_digest"] == item["bundle"]["digest"] == tiny_bundle.digest
            image = service.client.get(item["links"]["image"]).content
            again = inspector.inspect(image, Recipe.model_validate(record["recipe"]).criteria)
            assert (again.decision, again.score, again.p_value, again.judged_share) == (
                item["decision"], item["score"], item["p_value"], item["judged_share"],
            )  # fmt: skip
            assert [list(region.bbox) for region in again.regions] == [region["bbox"] for region in item["regions"]]
        inspector.close()
