"""Every failure is reported as a problem of its own type, and nothing is stored for it."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.api.http.problems import catalogue
from tests.bundles import part, write_tiny_bundle
from tests.problems import assert_problem
from tests.running_service import BOMB, GOOD, INSPECT, HttpService, RunningService, Serve, encode


def zip_of(count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}.png", b"x")
    return buffer.getvalue()


PROPOSE = "/v1/products/widget/thresholds:propose"
RECIPE = "/v1/products/widget/recipe"
WHO = {"author": "a", "reason": "b"}
IMAGE = {"content-type": "image/png"}
ZIP = {"content-type": "application/zip"}
ZIP_OF_501 = zip_of(501)
RAW = {"content-type": "application/octet-stream"}
BUFFER = RAW | {"x-pixel-format": "Mono8", "x-width": "8", "x-height": "8"}
YUV = {"x-pixel-format": "YUV9"}
JSON = {"content-type": "application/json"}


# Method, path, request options, status, slug.
CASES: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/nowhere", {}, 404, "not-found"),
    ("GET", "/v1/inspections/../../etc/passwd", {}, 404, "not-found"),
    ("GET", "/v1/products/", {}, 404, "not-found"),
    ("DELETE", "/v1/products", {}, 405, "method-not-allowed"),
    ("GET", "/v1/products/gadget", {}, 404, "unknown-product"),
    ("POST", "/v1/products/gadget/inspections", {"content": GOOD, "headers": IMAGE}, 404, "unknown-product"),
    ("GET", "/v1/products/gadget/recipe/revisions", {}, 404, "unknown-product"),
    ("GET", "/v1/inspections/nonsense", {}, 404, "unknown-inspection"),
    ("GET", "/v1/inspections/00000000-0000-4000-8000-000000000000", {}, 404, "unknown-inspection"),
    ("GET", "/v1/inspections/01a200cf-24a2-74fb-a0f8-9e8d0de452cf/map", {}, 404, "unknown-inspection"),
    ("GET", f"{RECIPE}/revisions/999", {}, 404, "unknown-revision"),
    ("POST", INSPECT, {"content": GOOD, "headers": IMAGE | {"accept": "text/html"}}, 406, "not-acceptable"),
    ("POST", INSPECT, {"content": GOOD, "headers": {"content-type": "text/plain"}}, 415, "unsupported-media-type"),
    ("POST", INSPECT, {"content": GOOD}, 415, "unsupported-media-type"),
    ("POST", INSPECT, {"content": b"GIF89a and more", "headers": IMAGE}, 415, "not-an-image"),
    ("POST", INSPECT, {"content": GOOD[: len(GOOD) // 2], "headers": IMAGE}, 422, "corrupt-image"),
    ("POST", INSPECT, {"content": bytes(64), "headers": BUFFER | YUV}, 415, "unknown-pixel-format"),
    ("POST", INSPECT, {"content": bytes(63), "headers": BUFFER}, 422, "buffer-size-mismatch"),
    ("POST", INSPECT, {"content": bytes(64), "headers": BUFFER | {"x-width": "0"}}, 422, "invalid-request"),
    ("POST", INSPECT, {"content": bytes(64), "headers": BUFFER | {"x-stride": "7"}}, 422, "invalid-request"),
    ("POST", INSPECT, {"content": bytes(64), "headers": RAW | {"x-pixel-format": "Mono8"}}, 422, "invalid-request"),
    ("POST", INSPECT, {"content": bytes(64), "headers": RAW | {"x-height": "8"}}, 422, "invalid-request"),
    ("PUT", RECIPE, {"json": WHO | {"pixels": {"pixel_format": "YUV9"}}}, 422, "invalid-recipe"),
    ("PUT", RECIPE, {"json": WHO | {"pixels": {"pixel_format": "Mono8", "bit_depth": 12}}}, 422, "invalid-recipe"),
    ("PUT", RECIPE, {"json": WHO | {"pixels": {"black_level": 100, "white_level": 100}}}, 422, "invalid-recipe"),
    ("PUT", RECIPE, {"json": WHO | {"pixels": {"bit_depth": 10, "white_level": 4095}}}, 422, "invalid-recipe"),
    ("POST", INSPECT, {"content": BOMB, "headers": IMAGE}, 413, "too-many-pixels"),
    ("POST", INSPECT, {"content": b"x" * 100_001, "headers": IMAGE}, 413, "body-too-large"),
    ("POST", INSPECT, {"content": b"", "headers": IMAGE}, 422, "invalid-request"),
    ("POST", f"{INSPECT}:batch", {"content": b"no zip", "headers": ZIP}, 422, "bad-archive"),
    ("POST", f"{INSPECT}:batch", {"content": ZIP_OF_501, "headers": ZIP}, 413, "too-many-images"),
    ("POST", f"{INSPECT}?part_id=", {"content": GOOD, "headers": IMAGE}, 422, "invalid-request"),
    ("POST", f"{INSPECT}?partid=7", {"content": GOOD, "headers": IMAGE}, 422, "invalid-request"),
    ("POST", f"{INSPECT}?captured_at=2026-01-01T00:00:00", {"content": GOOD, "headers": IMAGE}, 422, "invalid-request"),
    ("POST", f"{INSPECT}?part_id=a%00b", {"content": GOOD, "headers": IMAGE}, 422, "invalid-request"),
    ("GET", "/v1/inspections?product=nope", {}, 404, "unknown-product"),
    ("GET", "/v1/inspections?product=nope&decision=fail&part_id=7&limit=1", {}, 404, "unknown-product"),
    ("GET", "/v1/inspections?limit=0", {}, 422, "invalid-request"),
    ("GET", "/v1/inspections?cursor=x", {}, 422, "invalid-request"),
    ("PUT", RECIPE, {"content": b"{{", "headers": JSON}, 422, "invalid-request"),
    ("PUT", RECIPE, {"json": {"fail_threshold": 2, "review_threshold": 1}}, 422, "invalid-request"),
    ("PUT", RECIPE, {"json": WHO | {"fail_threshold": 1, "review_threshold": 2}}, 422, "invalid-recipe"),
    ("PUT", RECIPE, {"json": WHO | {"target_false_reject_rate": 0.001}}, 422, "invalid-recipe"),
    ("PUT", RECIPE, {"json": WHO | {"target_false_reject_rate": 0.1, "expected_revision": 99}}, 412, "recipe-conflict"),
    ("PUT", RECIPE, {"content": b" " * 100_001, "headers": JSON}, 413, "body-too-large"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "options", "status", "slug"), CASES)
def test_failure_is_a_problem_and_stores_nothing(
    service: RunningService, method: str, path: str, options: dict[str, Any], status: int, slug: str
) -> None:
    before = service.client.get(RECIPE).json()
    assert_problem(service.client.request(method, path, **options), status, slug)
    assert service.client.get("/v1/inspections").json()["items"] == []
    assert service.client.get(RECIPE).json() == before
    assert not [path for path in service.settings.data.rglob("inspections/**/*") if path.is_file()]


def test_unexpected_failure_reveals_no_details(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **_options: object) -> bytes:
        raise RuntimeError("cannot read /secret/folder/map.npy")

    with serve() as service:
        stored = service.inspect().json()
        monkeypatch.setattr(service.services.artefacts, "draw_heatmap", fail)
        response = service.client.get(stored["links"]["heatmap"])
        assert_problem(response, 500, "internal-error")
        assert "secret" not in response.text
        assert "npy" not in response.text
        # The service continues to work.
        assert service.inspect().status_code == 201


def test_image_that_differs_from_the_recipe_is_rejected(serve: Serve) -> None:
    with serve() as service:
        declared = {"pixel_format": "Mono12", "width": 8, "height": 8}
        assert service.client.put(RECIPE, json=WHO | {"pixels": declared}).status_code == 200
        for headers, content in (
            (BUFFER, bytes(64)),  # Mono8
            (IMAGE, GOOD),  # 8 bits
        ):
            response = service.client.post(INSPECT, content=content, headers=headers)
            assert_problem(response, 422, "pixel-mismatch")
        assert service.client.get("/v1/inspections").json()["items"] == []


def test_image_rejected_by_the_quality_check_has_no_map(serve: Serve) -> None:
    with serve() as service:
        assert service.client.put(RECIPE, json=WHO | {"quality": {"min_contrast": 1}}).status_code == 200
        stored = service.inspect().json()
        assert stored["decision"] == "invalid"
        assert_problem(service.client.get(f"/v1/inspections/{stored['id']}/map"), 409, "not-judged")


def test_score_that_is_not_finite_returns_no_verdict(serve: Serve, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "models", fails_on_black=True)
    with serve(models=tmp_path / "models") as service:
        problem = assert_problem(service.inspect(encode(part(brightness=0))), 500, "score-not-finite")
        assert "not inspected" in problem["detail"]
        assert service.client.get("/v1/inspections").json()["items"] == []
        assert service.inspect().status_code == 201


@pytest.mark.slow
def test_unknown_or_outdated_proposal_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    models, request_body = tmp_path / "models", {"author": "a", "target_false_reject_rate": 0.1}
    write_tiny_bundle(models)
    with serve(models=models) as service:
        made = service.client.post(PROPOSE, json=request_body).json()
        assert_problem(service.client.get(f"/v1/products/widget/proposals/{GOOD[:4].hex()}"), 404, "unknown-proposal")
        lost = service.client.put(RECIPE, json=WHO | {"proposal_id": "0"})
        assert_problem(lost, 404, "unknown-proposal")
    write_tiny_bundle(models, gain=True, created_at=datetime(2026, 2, 1, tzinfo=UTC))
    with serve(models=models) as service:
        before = service.client.get(RECIPE).json()
        assert_problem(service.client.put(RECIPE, json=WHO | {"proposal_id": made["id"]}), 409, "proposal-outdated")
        assert service.client.get(RECIPE).json() == before


def test_image_that_does_not_fit_the_polygons_is_not_judged(serve: Serve) -> None:
    with serve() as service:
        service.client.put(RECIPE, json=WHO | {"roi": [[[0, 0], [64, 0], [64, 64]]]})
        problem = assert_problem(service.inspect(encode(part(width=63))), 422, "area-mismatch")
        assert (problem["width"], problem["height"]) == (63, 64)
        assert service.client.get("/v1/inspections").json()["items"] == []
        assert list(service.settings.data.rglob("*.png")) == [], "its image is not kept either"
        assert service.inspect().status_code == 201


def test_product_whose_bundle_is_broken_is_not_ready(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "widget" / "0123456789ab").mkdir(parents=True)
    with serve(models=models) as service:
        problem = assert_problem(service.inspect(), 503, "product-not-ready")
        assert "manifest.json" in problem["detail"]
        assert "retry_after" not in problem, "waiting does not repair a bundle"
        with service.registry.changing("widget"):
            assert assert_problem(service.inspect(), 503, "product-not-ready")["retry_after"] > 0


def test_every_problem_type_has_a_test_in_this_folder() -> None:
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    tested = {slug for slug in catalogue() if f'"{slug}"' in here or f"problems#{slug}" in here}
    assert tested == set(catalogue())


def test_405_lists_every_method_of_the_path(service: HttpService) -> None:
    response = service.client.post("/v1/products/widget/recipe")
    assert response.status_code == 405
    assert {"GET", "PUT"} <= set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize(
    ("method", "path", "body", "explanation"),
    [
        ("POST", f"{INSPECT}?partid=7", None, "query.partid: unknown parameter `partid` (did you mean `part_id`?)"),
        ("POST", f"{INSPECT}?colour=red", None, "(expected one of: captured_at, lot, part_id, station)"),
        ("PUT", RECIPE, WHO | {"fail_treshold": 2}, "unknown field `fail_treshold` (did you mean `fail_threshold`?)"),
        ("PUT", RECIPE, WHO | {"regions": {"min_aera_px": 2}}, "`min_aera_px` (did you mean `min_area_px`?)"),
        ("POST", PROPOSE, WHO | {"inspections": {"sinse": "2026-03-01T00:00:00Z"}}, "(did you mean `since`?)"),
    ],
)
def test_misspelt_name_is_named_with_the_right_one(
    service: HttpService, method: str, path: str, body: dict[str, Any] | None, explanation: str
) -> None:
    options: dict[str, Any] = {"content": GOOD, "headers": IMAGE} if body is None else {"json": body}
    problem = assert_problem(service.client.request(method, path, **options), 422, "invalid-request")
    assert explanation in problem["detail"]
    assert any(item["type"] == "extra_forbidden" and item["msg"] in problem["detail"] for item in problem["errors"])


def test_trailing_slash_is_named_instead_of_redirected(service: HttpService) -> None:
    problem = assert_problem(service.client.get("/v1/products/"), 404, "not-found")
    assert "Remove the slash at the end." in problem["detail"]
