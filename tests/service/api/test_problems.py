"""Every failure is reported as a problem of its own type, and nothing is stored for it."""

from __future__ import annotations

import io
import json
import socket
import sqlite3
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.api.http.problems import catalogue
from service.app import begin_drain
from service.schemas.problem import TYPE_PREFIX
from service.store.errors import StoreUnavailable
from tests.bundles import part, write_tiny_bundle
from tests.running_service import BOMB, GOOD, INSPECT, RunningService, Serve, encode


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


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    kind = catalogue()[slug]
    assert problem["type"] == TYPE_PREFIX + slug
    assert problem["title"] == kind.title
    assert problem["status"] == status == kind.status
    assert problem["instance"] == f"urn:plumbline:request:{response.headers['x-request-id']}"
    assert problem["detail"].endswith("."), "a sentence"
    assert "Traceback" not in response.text
    if status == 503:
        assert int(response.headers["retry-after"]) >= problem["retry_after"]
    return problem


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


def test_unexpected_failure_reveals_no_details(serve: Serve) -> None:
    with serve() as service:
        stored = service.inspect().json()
        (map_file,) = service.settings.data.rglob("*.npy")
        map_file.write_bytes(b"not an array")
        response = service.client.get(stored["links"]["heatmap"])
        assert_problem(response, 500, "internal-error")
        assert str(service.settings.data) not in response.text
        assert "npy" not in response.text
        # The service continues to work.
        assert service.inspect().status_code == 201


@pytest.mark.parametrize(("suffix", "links"), [(".png", ("image", "heatmap")), (".npy", ("map", "heatmap"))])
def test_removed_artefact_is_gone_but_its_record_stays(serve: Serve, suffix: str, links: tuple[str, str]) -> None:
    with serve() as service:
        stored = service.inspect().json()
        (file,) = service.settings.data.rglob(f"*{suffix}")
        file.unlink()
        for link in links:
            assert_problem(service.client.get(stored["links"][link]), 410, "artefact-gone")
        assert service.client.get(stored["links"]["self"]).json() == stored


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


def test_full_queue_rejects_at_once_and_recovers(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service:
        with service.admission.enter(), service.connect() as client:
            client.sendall(_head(10**5))  # refused before the body is sent
            assert b"/problems#queue-full" in _read_response(client)
            problem = assert_problem(service.inspect(), 503, "queue-full")
        assert problem["limit"] == 1
        assert 'inspection_shed_total{reason="queue_full"} 2.0' in service.client.get("/metrics").text
        assert service.inspect().status_code == 201


def test_stream_beyond_the_limit_is_rejected_with_a_problem(serve: Serve) -> None:
    slug = "too-many-streams"
    with serve(max_streams=1) as service:
        url = f"ws://127.0.0.1:{service.port}/v1/products/widget/stream"
        with connect(url), pytest.raises(InvalidStatus) as caught, connect(url):
            pass
        rejection = caught.value.response
        assert (rejection.status_code, rejection.headers["retry-after"]) == (503, "5")
        assert json.loads(rejection.body)["type"] == TYPE_PREFIX + slug


def test_slow_body_is_refused_and_takes_no_place_in_the_queue(serve: Serve) -> None:
    with serve(body_timeout_s=0.2, queue_limit=1, max_batch=1) as service, service.connect() as slow:
        slow.sendall(_head(len(GOOD)) + GOOD[:100])
        assert service.inspect().status_code == 201
        response = _read_response(slow)
        assert response.startswith(b"HTTP/1.1 408")
        assert b"/problems#request-timeout" in response
        assert service.admission.depth == 0


def test_disconnect_frees_the_place_in_the_queue(serve: Serve) -> None:
    with serve(queue_limit=2, max_batch=1) as service, service.admission.enter():
        with service.connect() as gone:
            gone.sendall(_head(len(GOOD)) + GOOD)
            _wait_for(lambda: service.admission.depth == 2)
        _wait_for(lambda: service.admission.depth == 1)
        assert service.client.get("/v1/inspections").json()["items"] == []


def test_inspection_past_its_deadline_returns_no_verdict(serve: Serve) -> None:
    with serve(queue_deadline_s=1e-9) as service:
        assert_problem(service.inspect(), 503, "deadline-exceeded")
        assert service.client.get("/v1/inspections").json()["items"] == []


def test_draining_service_rejects_images_but_serves_other_requests(serve: Serve) -> None:
    with serve() as service:
        stored = service.inspect().json()
        begin_drain(service.app)
        assert_problem(service.inspect(), 503, "shutting-down")
        assert service.client.get("/health/ready").json()["status"] == "draining"
        assert service.client.get("/health/live").status_code == 200
        assert service.client.get(stored["links"]["self"]).status_code == 200


def test_full_disk_returns_no_verdict(serve: Serve) -> None:
    with serve() as service:
        folder = service.settings.data / "inspections"
        folder.rmdir()
        folder.write_text("a file instead of the folder, so that nothing can be written below it")
        assert_problem(service.inspect(), 503, "store-unavailable")
        folder.unlink()
        assert service.client.get("/v1/inspections").json()["items"] == []
        assert service.inspect().status_code == 201, "recovers without a restart"


def test_score_that_is_not_finite_returns_no_verdict(serve: Serve, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "models", fails_on_black=True)
    with serve(models=tmp_path / "models") as service:
        problem = assert_problem(service.inspect(encode(part(brightness=0))), 500, "score-not-finite")
        assert "not inspected" in problem["detail"]
        assert service.client.get("/v1/inspections").json()["items"] == []
        assert service.inspect().status_code == 201


def test_database_failure_returns_no_verdict(serve: Serve) -> None:
    with serve() as service:
        with sqlite3.connect(service.settings.data / "plumbline.db") as database:
            database.execute("ALTER TABLE inspections RENAME TO elsewhere")
        database.close()
        assert_problem(service.inspect(), 503, "store-unavailable")
        assert_problem(service.client.get("/v1/inspections"), 503, "store-unavailable")


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


def test_one_proposal_is_made_at_a_time(serve: Serve) -> None:
    request_body = {"author": "a", "target_false_reject_rate": 0.1}
    with serve() as service:
        with service.services.proposals.reserve():
            assert_problem(service.client.post(PROPOSE, json=request_body), 503, "proposals-busy")
        assert service.client.post(PROPOSE, json=request_body).status_code == 201


def test_full_disk_leaks_no_file_descriptor(serve: Serve) -> None:
    with serve() as service:
        assert service.inspect().status_code == 201
        write_image = service.store.files.write_image

        def no_space(*_: object) -> None:
            raise StoreUnavailable("no space left")

        before = len(list(Path("/proc/self/fd").iterdir()))
        object.__setattr__(service.store.files, "write_image", no_space)
        for _ in range(20):
            assert_problem(service.inspect(), 503, "store-unavailable")
        object.__setattr__(service.store.files, "write_image", write_image)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
        assert service.inspect().status_code == 201


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


def test_every_problem_type_has_a_test_in_this_folder() -> None:
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    tested = {slug for slug in catalogue() if f'"{slug}"' in here or f"problems#{slug}" in here}
    assert tested == set(catalogue())


def test_content_length_over_the_limit_is_rejected_before_the_body_is_sent(service: RunningService) -> None:
    with service.connect() as client:
        client.sendall(_head(10**9))
        response = _read_response(client)
    assert response.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in response.lower()


def test_chunked_body_is_rejected_as_soon_as_it_exceeds_the_limit(service: RunningService) -> None:
    with service.connect() as client:
        head = f"POST {INSPECT} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode())
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        for _ in range(100_000 // 0x4000 + 1):
            client.sendall(chunk)
        # The body is never completed; the response must not wait for it.
        response = _read_response(client)
    assert response.startswith(b"HTTP/1.1 413")
    assert b"/problems#body-too-large" in response
    assert b"connection: close" in response.lower()


def test_rejected_upload_ends_with_the_response_not_with_a_reset(service: RunningService) -> None:
    # Larger than all socket buffers together, so the client is still sending when the response arrives.
    for _ in range(3):
        response = service.client.post(INSPECT, content=iter([b"x" * 2**20] * 16), headers=IMAGE)
        assert_problem(response, 413, "body-too-large")


def _head(length: int) -> bytes:
    lines = [f"POST {INSPECT} HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _read_response(connection: socket.socket) -> bytes:
    response = b""
    while chunk := connection.recv(65536):
        response += chunk
        _, _, body = response.partition(b"\r\n\r\n")
        if body and body.rstrip().endswith(b"}"):
            json.loads(body)
            break
    return response


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_405_lists_every_method_of_the_path(service: RunningService) -> None:
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
    service: RunningService, method: str, path: str, body: dict[str, Any] | None, explanation: str
) -> None:
    options: dict[str, Any] = {"content": GOOD, "headers": IMAGE} if body is None else {"json": body}
    problem = assert_problem(service.client.request(method, path, **options), 422, "invalid-request")
    assert explanation in problem["detail"]
    assert any(item["type"] == "extra_forbidden" and item["msg"] in problem["detail"] for item in problem["errors"])


def test_trailing_slash_is_named_instead_of_redirected(service: RunningService) -> None:
    problem = assert_problem(service.client.get("/v1/products/"), 404, "not-found")
    assert "Remove the slash at the end." in problem["detail"]
