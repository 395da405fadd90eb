"""Send an image, receive the decision, read it again later."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from uuid import UUID

import cv2
import numpy as np
import pytest

from service.bundle.bundle import Bundle
from service.inspection.inspector import Inspector
from service.recipes.recipe import Recipe
from service.schemas.inspection import Inspection, InspectionPage
from tests.bundles import SIZE, part
from tests.running_service import BAD, GOOD, INSPECT, HttpService, Serve, encode


def test_good_part_passes_and_the_response_explains_the_decision(service: HttpService, tiny_bundle: Bundle) -> None:
    response = service.inspect(GOOD)
    assert response.status_code == 201
    verdict = Inspection.model_validate_json(response.content)
    assert verdict.decision == "pass"
    assert verdict.regions == []
    assert verdict.product == "widget"
    assert verdict.bundle.digest == tiny_bundle.digest
    assert verdict.bundle.method == "gray-distance"
    assert verdict.image.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert (verdict.image.width, verdict.image.height, verdict.image.bytes) == (SIZE, SIZE, len(GOOD))
    assert verdict.image.media_type == "image/png"
    assert verdict.thresholds.target_false_reject_rate == 0.01
    assert verdict.thresholds.calibration_images == 99
    assert verdict.thresholds.certified
    assert {"decode", "preprocess", "queue", "infer", "postprocess"} <= verdict.timings_ms.keys()
    assert UUID(verdict.id).version == 7
    assert response.headers["location"] == verdict.links.self


def test_defective_part_fails_with_the_location_of_the_defect(service: HttpService) -> None:
    wide = encode(part(width=2 * SIZE, height=SIZE, spot=(40, 30, 16)))
    verdict = Inspection.model_validate_json(service.inspect(wide).content)
    assert verdict.decision == "fail"
    assert verdict.p_value == 0.01
    (region,) = verdict.regions
    x, y, width, height = region.bbox
    # The defect covers x 40..56 and y 30..46 of the sent image, which is wider than the network's input.
    assert x <= 44
    assert x + width >= 52
    assert y <= 34
    assert y + height >= 42
    assert width < 32
    assert region.area_px > 0
    assert 40 <= region.peak_xy[0] < 56


def test_decision_equals_that_of_the_inspector(service: HttpService, tiny_bundle: Bundle) -> None:
    inspector = Inspector.load(tiny_bundle.path)
    expected = inspector.inspect(BAD, Recipe.default(tiny_bundle.card.scores).criteria)
    inspector.close()
    verdict = service.inspect(BAD).json()
    assert verdict["score"] == expected.score
    assert verdict["p_value"] == expected.p_value
    assert verdict["thresholds"]["fail"] == expected.thresholds.fail


@pytest.mark.parametrize(
    ("suffix", "media_type"),
    [
        (".jpg", "image/jpeg"),
        (".png", "image/png"),
        (".bmp", "image/bmp"),
        (".webp", "image/webp"),
        (".tiff", "image/tiff"),
    ],
)
def test_every_format_is_judged_and_stored_as_sent(service: HttpService, suffix: str, media_type: str) -> None:
    image = encode(part(spot=(20, 30, 16)), suffix)
    response = service.inspect(image, headers={"content-type": media_type})
    assert response.status_code == 201, response.text
    assert response.json()["decision"] == "fail"
    kept = service.client.get(response.json()["links"]["image"])
    assert kept.content == image
    assert kept.headers["content-type"] == media_type


def test_form_contains_image_and_fields(service: HttpService) -> None:
    about = {"part_id": "4711", "station": "press 2", "lot": "L-9", "captured_at": "2026-03-01T08:30:00+01:00"}
    response = service.client.post(INSPECT, files={"image": ("a.png", BAD)}, data=about)
    assert response.status_code == 201, response.text
    verdict = service.client.get(response.json()["links"]["self"]).json()
    assert [verdict[name] for name in ("part_id", "station", "lot")] == ["4711", "press 2", "L-9"]
    assert verdict["captured_at"] == "2026-03-01T07:30:00Z"
    assert verdict["decision"] == "fail"


def test_part_is_named_in_the_query_of_a_raw_upload(service: HttpService) -> None:
    verdict = service.inspect(GOOD, params={"part_id": "Grün 7", "lot": "x"}).json()
    assert verdict["part_id"] == "Grün 7"
    assert verdict["lot"] == "x"
    assert verdict["station"] is None


def test_large_form_is_received_completely(service: HttpService) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (170, 170, 3), np.uint8)
    image = encode(noise, ".bmp")
    assert len(image) > 65536, "the image spans several chunks"
    response = service.client.post(INSPECT, files={"image": image})
    assert response.json()["image"]["sha256"] == hashlib.sha256(image).hexdigest()


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
def test_inspect_returns_the_heatmap_on_request(service: HttpService, media_type: str) -> None:
    response = service.inspect(BAD, headers={"accept": media_type})
    assert response.status_code == 201
    assert response.headers["content-type"] == media_type
    drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == (SIZE, SIZE, 3)
    stored = service.client.get(response.headers["location"]).json()
    assert response.headers["x-plumbline-id"] == stored["id"]
    assert response.headers["x-plumbline-decision"] == stored["decision"] == "fail"
    assert float(response.headers["x-plumbline-score"]) == stored["score"]
    assert float(response.headers["x-plumbline-p-value"]) == stored["p_value"]
    assert float(response.headers["x-plumbline-fail-threshold"]) == stored["thresholds"]["fail"]


def test_heatmap_leaves_a_good_part_unchanged_and_colours_a_defect(service: HttpService) -> None:
    def draw(image: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        links = service.inspect(image).json()["links"]
        content = service.client.get(links["heatmap"], params={"format": "png"}).content
        return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), np.uint8)

    gray = draw(encode(part(brightness=127)))
    assert np.abs(gray.astype(int) - 127).max() <= 1, "there is no colour without an anomaly"
    blue, green, red = draw(BAD)[34, 24].astype(int)
    assert min(red, blue) > green, "a defect is violet"


@pytest.mark.parametrize(
    ("query", "has_legend"), [({}, False), ({"legend": "false"}, False), ({"legend": "true"}, True)]
)
def test_heatmap_has_a_legend_on_request(query: dict[str, str], has_legend: bool, service: HttpService) -> None:
    url = service.inspect(BAD).json()["links"]["heatmap"]
    content = service.client.get(url, params={"format": "png", **query}).content
    drawn = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)

    assert drawn is not None
    assert (drawn.shape != (SIZE, SIZE, 3)) == has_legend
    plain = cv2.imdecode(np.frombuffer(service.client.get(url, params={"format": "png"}).content, np.uint8), 1)
    np.testing.assert_array_equal(drawn[:SIZE, :SIZE], plain)


def test_legend_must_be_true_or_false(service: HttpService) -> None:
    url = service.inspect(BAD).json()["links"]["heatmap"]

    assert service.client.get(url, params={"legend": "big"}).status_code == 422


@pytest.mark.slow
def test_colour_map_is_a_setting(serve: Serve) -> None:
    drawn = {}
    for colormap in ("cyan-violet", "turbo"):
        with serve(heatmap_colormap=colormap) as service:
            url = service.inspect(BAD).json()["links"]["heatmap"]
            drawn[colormap] = service.client.get(url, params={"format": "png"}).content

    assert drawn["cyan-violet"] != drawn["turbo"]


def test_heatmap_format_follows_query_then_accept_header_then_setting(service: HttpService) -> None:
    url = service.inspect(BAD).json()["links"]["heatmap"]
    get = service.client.get
    assert get(url).headers["content-type"] == "image/jpeg"
    assert get(url, headers={"accept": "image/*"}).headers["content-type"] == "image/jpeg"
    assert get(url, headers={"accept": "image/webp"}).headers["content-type"] == "image/webp"
    assert get(url, headers={"accept": "image/webp"}, params={"format": "png"}).headers["content-type"] == "image/png"
    assert get(url).headers["vary"] == "Accept"


def test_map_is_a_float32_array_whose_peak_lies_on_the_defect(service: HttpService) -> None:
    links = service.inspect(BAD).json()["links"]
    response = service.client.get(links["map"])
    anomaly_map = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert anomaly_map.dtype == np.float32
    assert anomaly_map.shape == (16, 16)
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert (5 <= column <= 6, 7 <= row <= 9) == (True, True)


def test_stored_inspection_equals_the_response(service: HttpService) -> None:
    inspection = service.inspect(BAD, params={"part_id": "p"}, headers={"x-request-id": "r-1"}).json()
    assert inspection["request_id"] == "r-1"
    assert service.client.get(inspection["links"]["self"]).json() == inspection


def test_list_is_newest_first_and_filtered(service: HttpService) -> None:
    ids = [service.inspect(image, params={"part_id": "filter"}).json()["id"] for image in (GOOD, BAD, GOOD)]

    def listed(**which: str) -> list[str]:
        response = service.client.get("/v1/inspections", params=which)
        return [item.id for item in InspectionPage.model_validate_json(response.content).items]

    assert listed(part_id="filter") == ids[::-1]
    assert listed(part_id="filter", decision="fail") == [ids[1]]
    assert listed(part_id="filter", product="widget") == ids[::-1]


def test_pages_cover_every_inspection_once(service: HttpService) -> None:
    ids = [service.inspect(GOOD, params={"part_id": "pages"}).json()["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        params = {"part_id": "pages", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = service.client.get("/v1/inspections", params=params).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


@pytest.mark.slow
def test_inspections_of_a_removed_product_are_listed(serve: Serve, tmp_path: Path) -> None:
    with serve() as service:
        stored = service.inspect().json()
    (tmp_path / "empty").mkdir()
    with serve(models=tmp_path / "empty") as service:
        found = service.client.get("/v1/inspections", params={"product": "widget"})
        assert [item["id"] for item in found.json()["items"]] == [stored["id"]]
        none = service.client.get("/v1/inspections", params={"product": "widget", "decision": "invalid"})
        assert (none.status_code, none.json()["items"]) == (200, [])
        assert service.client.get("/v1/inspections", params={"product": "gadget"}).status_code == 404
