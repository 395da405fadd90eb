"""Log lines: one per inspection, refusal and change, each with the request id that a response or problem names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs
from websockets.sync.client import connect

from service.api.http.server_paths import ServerPaths
from service.monitoring.refusals import WINDOW_S, RefusalLog
from tests.access import bearer, make_key
from tests.bundles import SIZE, tiny_quality, write_tiny_bundle
from tests.running_service import BAD, GOOD, INSPECT, Serve, encode

Lines = list[dict[str, Any]]
WHO = {"author": "Ada", "reason": "a new lens"}


@contextmanager
def captured() -> Iterator[Lines]:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        yield lines  # type: ignore[misc]


def named(lines: Lines, event: str) -> Lines:
    return [line for line in lines if line["event"] == event]


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def request_id(problem: dict[str, Any]) -> str:
    return str(problem["instance"]).removeprefix("urn:plumbline:request:")


def test_every_inspection_is_one_line_at_debug_with_its_request_id(serve: Serve) -> None:
    with captured() as lines, serve() as service:
        response = service.inspect(BAD, headers={"x-request-id": "camera-7"})
        service.inspect(GOOD)

    first, second = named(lines, "inspected")
    assert first["log_level"] == "debug"
    assert first["request_id"] == "camera-7" == response.headers["x-request-id"]
    assert (first["inspection"], first["decision"]) == (response.json()["id"], "fail")
    assert (first["product"], first["score"]) == ("widget", response.json()["score"])
    assert first["duration_ms"] > 0
    assert second["decision"] == "pass"


@pytest.mark.slow
def test_invalid_image_is_one_line_at_debug(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models, quality=tiny_quality(brightness=(120, 136), dark_share=(0, 0), bright_share=(0, 0)))
    black = encode(np.zeros((SIZE, SIZE, 3), np.uint8))
    with captured() as lines, serve(models=models) as service:
        response = service.inspect(black)

    assert response.json()["decision"] == "invalid"
    (line,) = named(lines, "inspected")
    assert (line["log_level"], line["decision"], line["score"]) == ("debug", "invalid", None)
    assert line["request_id"] == response.headers["x-request-id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/inspections/018f0000-0000-7000-8000-000000000000", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", INSPECT, 405),
        ("POST", INSPECT, 422),
        ("PUT", "/v1/products/widget/recipe", 422),
        ("POST", "/v1/products/ghost/inspections", 404),
    ],
)
def test_every_refused_request_is_one_line_at_info_with_its_request_id(
    method: str, path: str, status: int, serve: Serve
) -> None:
    with captured() as lines, serve() as service:
        response = service.client.request(method, path, content=b"{}", headers={"content-type": "application/json"})
        wait_for(lambda: named(lines, "refused"))

    assert 400 <= response.status_code < 500, (response.status_code, status)
    (line,) = named(lines, "refused")
    assert line["log_level"] == "info"
    assert line["request_id"] == request_id(response.json()) == response.headers["x-request-id"]
    assert (line["status"], line["method"], line["path"]) == (response.status_code, method, path)
    assert response.json()["type"].endswith("#" + line["problem"])
    assert ServerPaths(service.settings).hide(line["reason"]) in response.json()["detail"]
    # No credentials are checked for paths and methods that do not exist.
    principal = "anonymous" if response.status_code == 405 or path == "/nowhere" else "local"
    assert (line["client"], line["principal"]) == ("127.0.0.1", principal)


def test_refusals_name_the_client_and_the_principal_and_no_secret(serve: Serve) -> None:
    with captured() as lines, serve() as service:
        key = make_key(service.store.engine, "inspect", stations=["s1"])
        service.app.state.access._require("test")
        headers = bearer(key)
        service.client.get("/v1/audit", headers=headers)
        service.inspect(b"no image", headers=headers)
        files = [("image", ("a.png", GOOD)), ("image", ("b.png", b"no image"))]
        service.client.post("/v1/products/widget/inspections:batch", files=files, headers=headers)
        with connect(f"ws://127.0.0.1:{service.port}/v1/products/widget/stream", additional_headers=headers) as stream:
            stream.send('{"type": "hello"}')
            stream.recv()
            stream.send(b"no image")
            stream.recv()
        service.client.get("/v1/audit")
        wait_for(lambda: len(named(lines, "refused")) == 5)
    refused = named(lines, "refused")
    assert [line["principal"] for line in refused] == [f"key {key.record.id}"] * 4 + ["anonymous"]
    assert {line["client"] for line in refused} == {"127.0.0.1"}
    assert key.key.split("_")[2] not in str(lines)


def test_refusal_for_lack_of_capacity_is_logged(serve: Serve) -> None:
    with captured() as lines, serve() as service:
        service.admission.close()
        response = service.inspect(GOOD)
        wait_for(lambda: named(lines, "refused"))

    assert response.status_code == 503
    line = named(lines, "refused")[0]
    assert (line["problem"], line["status"]) == ("shutting-down", 503)
    assert line["request_id"] == request_id(response.json())


def test_refused_image_of_a_batch_is_logged_with_the_id_of_its_problem(serve: Serve) -> None:
    with captured() as lines, serve() as service:
        files = [("image", ("a.png", GOOD)), ("image", ("b.png", b"no image"))]
        response = service.client.post("/v1/products/widget/inspections:batch", files=files)

    problem = response.json()["items"][1]["problem"]
    (line,) = named(lines, "refused")
    assert line["request_id"] == request_id(problem)
    assert problem["type"].endswith("#" + line["problem"])


def test_flood_of_refusals_is_logged_in_part_and_counted(serve: Serve) -> None:
    with captured() as lines, serve(log_refusals_per_minute=3) as service:
        for _ in range(10):
            service.client.get("/nowhere")
        service.client.post(INSPECT, content=b"no image", headers={"content-type": "image/png"})

    problems = [line["problem"] for line in named(lines, "refused")]
    assert problems.count("not-found") == 3
    assert len(problems) == 4, "a flood of one problem does not hide another"
    assert [(line["problem"], line["suppressed"]) for line in named(lines, "refusals not logged")] == [("not-found", 7)]


def test_count_of_suppressed_lines_is_logged_after_a_minute() -> None:
    now = 0.0
    refusals = RefusalLog(2, clock=lambda: now)
    with captured() as lines:
        for _ in range(5):
            refusals.record("queue-full", "r")
        refusals.tick()
        assert named(lines, "refusals not logged") == []
        now = WINDOW_S
        refusals.tick()
        refusals.record("queue-full", "r")

    assert [line["suppressed"] for line in named(lines, "refusals not logged")] == [3]
    assert len(named(lines, "refused")) == 3, "a new minute begins"


def test_limit_of_zero_logs_only_counts(serve: Serve) -> None:
    with captured() as lines, serve(log_refusals_per_minute=0) as service:
        service.client.get("/nowhere")

    assert named(lines, "refused") == []
    assert [line["suppressed"] for line in named(lines, "refusals not logged")] == [1]


def test_long_paths_are_cut(serve: Serve) -> None:
    with captured() as lines, serve() as service:
        service.client.get("/" + "x" * 5000)

    (line,) = named(lines, "refused")
    assert len(line["path"]) <= 200
    assert len(line["reason"]) <= 300


def test_every_change_of_a_recipe_is_one_line_at_info(serve: Serve) -> None:
    with captured() as lines, serve() as service:
        headers = {"x-request-id": "change-1"}
        change = WHO | {"retention": {"pass": {"days": 3}}}
        service.client.put("/v1/products/widget/recipe", json=change, headers=headers)
        revert = "/v1/products/widget/recipe/revisions/1:revert"
        response = service.client.post(revert, json={"author": "Eve"})
        assert response.status_code in {200, 201}, response.text

    changed, reverted = named(lines, "recipe changed")
    assert (changed["log_level"], changed["request_id"]) == ("info", "change-1")
    assert (changed["product"], changed["revision"], changed["author"]) == ("widget", 2, "Ada")
    assert any(path.startswith("retention") for path in changed["changed"])
    assert (reverted["revision"], reverted["author"]) == (3, "Eve")
    assert reverted["request_id"] == response.headers["x-request-id"]


@pytest.mark.slow
def test_every_change_of_a_bundle_is_one_line_at_info(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = write_tiny_bundle(models)
    second = write_tiny_bundle(models, scores=[10 + rank for rank in range(99)])
    with captured() as lines, serve(models=models) as service:
        active = service.registry.get("widget").bundle.version
        other = first.version if active == second.version else second.version
        bundles = f"/v1/products/widget/bundles/{other}"
        for number, path in enumerate((f"{bundles}:activate", "/v1/products/widget/bundles:rollback")):
            headers = {"x-request-id": f"change-{number}"}
            response = service.client.post(path, json=WHO, headers=headers)
            assert response.status_code == 200, response.text

    activated = named(lines, "bundle activated")
    assert [line["request_id"] for line in activated] == ["change-0", "change-1"]
    assert {line["log_level"] for line in activated} == {"info"}
    assert (activated[0]["version"], activated[0]["author"]) == (other, "Ada")


def test_removal_of_images_is_one_line_at_info(serve: Serve) -> None:
    with captured() as lines, serve(retention_interval_s=0.05) as service:
        for _ in range(3):
            service.inspect(GOOD)
        service.client.put(
            "/v1/products/widget/recipe", json=WHO | {"retention": {"pass": {"count": 1}}, "confirm_removal": 2}
        )
        wait_for(lambda: sum(line["count"] for line in named(lines, "images and maps removed")) == 2)

    line = named(lines, "images and maps removed")[0]
    assert (line["log_level"], line["product"], line["decision"]) == ("info", "widget", "pass")
