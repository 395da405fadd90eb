"""Limits of uploads and self-tests over HTTP, and a stored recipe that cannot be read."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.faults.overlapping_zip import overlapping
from service.api.http import body_limit
from service.api.routes import bundles
from service.bundle.bundle import Bundle
from tests.running_service import GOOD, INSPECT, RunningService, Serve
from tests.service.api.test_bundles import PRODUCT, activate, upload

HEAD = b"POST /v1/products/widget/bundles HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"


def read_problem(response: bytes) -> str:
    return str(json.loads(response.partition(b"\r\n\r\n")[2])["type"])


def test_upload_that_the_disk_has_no_space_for_is_refused(serve: Serve, tiny_bundle: Bundle) -> None:
    with serve(min_free_bytes=2**50) as service:
        response = upload(service, tiny_bundle)
        assert (response.status_code, response.json()["type"]) == (507, "/problems#not-enough-space")
        assert service.inspect().status_code == 201


def test_uploads_beyond_the_limit_are_refused(serve: Serve, tiny_bundle: Bundle) -> None:
    with serve(max_uploads=1) as service:
        with service.connect() as slow:
            slow.sendall(HEAD + b"Content-Length: 1000\r\n\r\nx")
            response = upload(service, tiny_bundle)
            while response.status_code == 200:  # the first one has not arrived yet
                response = upload(service, tiny_bundle)
            assert (response.status_code, response.json()["type"]) == (503, "/problems#uploads-busy")
            assert "retry-after" in response.headers
        while (response := upload(service, tiny_bundle)).status_code == 503:
            pass
        assert response.status_code == 200, "the place is free when the client is gone"


def trickle(service: RunningService, pause_s: float) -> bytes:
    """Send an upload byte by byte until there is a response, and return it."""
    with service.connect() as slow:
        slow.settimeout(pause_s)
        slow.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        response = b""
        while b'"instance"' not in response:
            if not response:
                slow.sendall(b"1\r\nx\r\n")
            with suppress(TimeoutError):
                response += slow.recv(4096)
        return response


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "grace_s", "pause_s", "slug", "reason"),
    [
        ({"upload_timeout_s": 0.3}, 30, 0.02, "upload-too-slow", "longer than 0.3 s (PLUMBLINE_UPLOAD_TIMEOUT_S)"),
        ({"upload_timeout_s": 0.3}, 30, 5, "upload-too-slow", "longer than 0.3 s (PLUMBLINE_UPLOAD_TIMEOUT_S)"),
        ({}, 0.3, 0.02, "upload-too-slow", "slower than 65536 bytes/s on average (PLUMBLINE_MIN_UPLOAD_RATE)"),
        ({"min_upload_rate": 5000}, 0.3, 0.02, "upload-too-slow", "slower than 5000 bytes/s"),
        ({"body_timeout_s": 0.3}, 30, 5, "request-timeout", "PLUMBLINE_BODY_TIMEOUT_S"),
    ],
)
def test_upload_that_is_too_slow_is_ended(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, float],
    grace_s: float,
    pause_s: float,
    slug: str,
    reason: str,
) -> None:
    limit = replace(body_limit.BUNDLE, rate_grace_s=grace_s)
    monkeypatch.setattr(bundles.upload_bundle, body_limit._ATTRIBUTE, limit)
    with serve(max_uploads=1, **settings) as service:
        started = time.monotonic()
        response = trickle(service, pause_s)
        assert response.startswith(b"HTTP/1.1 408")
        assert read_problem(response) == f"/problems#{slug}"
        assert reason in response.decode()
        assert time.monotonic() - started < 5
        with service.connect() as next_one:  # the place is free, and nothing was stored
            next_one.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
            assert read_problem(next_one.recv(65536)) == "/problems#bundle-archive-invalid"
        assert [path.name for path in (service.settings.models / "widget").iterdir()] == [
            service.registry.get("widget").bundle.version
        ]


def test_bundle_that_exceeds_the_limits_of_its_self_test_is_refused(serve: Serve, tiny_bundle: Bundle) -> None:
    with serve(self_test_timeout_s=0.01) as service:
        ready = service.client.get("/health/ready")
        assert (ready.status_code, ready.json()["broken_bundles"][0]["type"]) == (503, "self-test-failed")
        response = activate(service, tiny_bundle)
        assert (response.status_code, response.json()["type"]) == (422, "/problems#self-test-failed")


def change_stored_recipe(service: RunningService) -> None:
    with sqlite3.connect(service.settings.data / "plumbline.db") as database:
        (stored,) = database.execute("SELECT recipe FROM recipes").fetchone()
        database.execute("UPDATE recipes SET recipe = ?", (json.dumps(json.loads(stored) | {"invented_later": 1}),))


@pytest.mark.slow
def test_stored_recipe_that_cannot_be_read_is_named(serve: Serve) -> None:
    with serve() as service:
        change_stored_recipe(service)
        response = service.client.get(f"{PRODUCT}/recipe/revisions")
        assert (response.status_code, response.json()["type"]) == (500, "/problems#recipe-unreadable")
        assert "invented_later" in response.json()["detail"]
        assert service.inspect().status_code == 201, "the recipe in force is in memory"
    with serve() as service:
        ready = service.client.get("/health/ready").json()
        assert (ready["status"], ready["broken_bundles"][0]["type"]) == ("not-ready", "recipe-unreadable")
        assert service.inspect().status_code == 503


def test_image_archive_with_overlapping_entries_is_refused(serve: Serve, tmp_path: Path) -> None:
    with serve() as service:
        headers = {"content-type": "application/zip"}
        response = service.client.post(f"{INSPECT}:batch", content=overlapping(GOOD, 400), headers=headers)
        assert (response.status_code, response.json()["type"]) == (422, "/problems#bad-archive")
        assert service.client.get("/v1/inspections").json()["items"] == []
