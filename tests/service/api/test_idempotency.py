"""Requests with an `Idempotency-Key`: sent again, they are inspected once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from sqlalchemy import event, text

from plumbline_client import Client
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.serving.retention import RetentionSweeper
from service.store.idempotency import find_key
from tests.running_service import BAD, GOOD, INSPECT, HttpService, RunningService, Serve, run_service
from tests.serving import service_process


def send(service: HttpService, key: str, image: bytes = GOOD, **options: Any) -> httpx.Response:
    return service.inspect(image, headers={"Idempotency-Key": key} | options.pop("headers", {}), **options)


def count(service: RunningService) -> int:
    with service.store.engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM inspections")).scalar_one())


def files(service: RunningService) -> int:
    return sum(path.is_file() for path in (service.store.data / "inspections").rglob("*"))


def test_repeated_request_returns_the_same_inspection(service: RunningService) -> None:
    first = send(service, "a-1", params={"part_id": "4711"})
    stored = count(service), files(service)
    again = send(service, "a-1", params={"part_id": "4711"}, headers={"X-Request-ID": "another"})
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (count(service), files(service)) == stored


def test_repeated_request_may_ask_for_the_heatmap(service: HttpService) -> None:
    first = send(service, "a-2")
    again = send(service, "a-2", headers={"Accept": "image/png"})
    assert again.headers["content-type"] == "image/png"
    assert again.headers["location"] == first.headers["location"]


def test_other_key_and_no_key_make_inspections_of_their_own(service: HttpService) -> None:
    found = {send(service, "b-1").json()["id"], send(service, "b-2").json()["id"], service.inspect().json()["id"]}
    assert len(found) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"image": BAD},
        {"params": {"part_id": "4712"}},
        {"params": {"station": "s"}},
        {"params": {"captured_at": "2026-03-01T08:30:00Z"}},
    ],
)
def test_key_of_another_request_is_refused(service: RunningService, change: dict[str, Any]) -> None:
    key = f"c-{change}".replace(" ", "")[:100].encode("ascii", "replace").decode()
    first = send(service, key).json()
    stored = count(service)
    response = send(service, key, **change)
    assert (response.status_code, response.json()["type"]) == (422, "/problems#idempotency-key-used")
    assert response.json()["inspection"] == first["id"]
    assert count(service) == stored


@pytest.mark.parametrize("key", ["", "with space", "x" * 201, "ü".encode("latin-1")])
def test_wrong_key_is_refused(service: HttpService, key: str | bytes) -> None:
    value = key if isinstance(key, bytes) else key.encode()
    headers = [(b"content-type", b"image/png"), (b"Idempotency-Key", value)]
    response = service.client.post(INSPECT, content=GOOD, headers=headers)
    assert (response.status_code, response.json()["type"]) == (422, "/problems#invalid-request")


def test_failed_request_may_be_sent_again(service: HttpService) -> None:
    assert send(service, "d-1", b"no image").status_code == 415
    assert send(service, "d-1", GOOD).status_code == 201  # nothing was stored, so the key is free


def test_simultaneous_requests_are_inspected_once(service: RunningService) -> None:
    stored = count(service)
    with ThreadPoolExecutor(8) as pool:
        responses = list(
            pool.map(
                lambda _: httpx.post(
                    f"{service.client.base_url}{INSPECT}",
                    content=GOOD,
                    timeout=30,
                    headers={"content-type": "image/png", "Idempotency-Key": "e-1"},
                ),
                range(8),
            )
        )
    assert {response.status_code for response in responses} == {201}
    assert len({response.json()["id"] for response in responses}) == 1
    assert sum("idempotency-replayed" in response.headers for response in responses) == 7
    assert count(service) == stored + 1
    assert service.services.inspections._work._idempotent._running == {}


def test_key_that_another_process_stored_meanwhile(service: RunningService) -> None:
    """Both processes looked the key up before either had stored it; the database decides."""
    first = send(service, "f-1").json()
    stored = count(service), files(service)
    looked_up: list[object] = []

    def find(*arguments: Any) -> object:
        looked_up.append(None)
        # The writer asks only after its insert failed.
        return None if len(looked_up) == 1 else find_key(*arguments)

    with patch("service.serving.idempotency.find_key", find):
        again = send(service, "f-1")
    assert (again.status_code, again.json()) == (201, first)
    assert again.headers["idempotency-replayed"] == "true"
    assert (count(service), files(service)) == stored


def test_conflict_does_not_affect_other_requests_of_the_same_commit(service: RunningService) -> None:
    send(service, "g-1")
    stored = count(service)
    gate = threading.Event()

    def slow_commit(*_: Any) -> None:
        gate.wait(0.3)

    event.listen(service.store.engine, "commit", slow_commit)
    try:
        with (
            patch("service.serving.idempotency.find_key", side_effect=[None, None, None, None]),
            ThreadPoolExecutor(4) as pool,
        ):
            # One of them has a key that is taken; its lookup after the conflict finds nothing and is reported.
            found = list(pool.map(lambda key: send_alone(service, key), ["g-1", "g-2", "g-3"]))
    finally:
        event.remove(service.store.engine, "commit", slow_commit)
    assert found == [503, 201, 201]
    assert count(service) == stored + 2


def send_alone(service: HttpService, key: str) -> int:
    headers = {"content-type": "image/png", "Idempotency-Key": key}
    return httpx.post(f"{service.client.base_url}{INSPECT}", content=GOOD, timeout=30, headers=headers).status_code


def test_batch_that_is_sent_again_inspects_what_is_missing(service: HttpService) -> None:
    def batch(*images: bytes) -> list[dict[str, Any]]:
        sent = [("image", (f"{index}.png", image, "image/png")) for index, image in enumerate(images)]
        response = service.client.post(f"{INSPECT}:batch", files=sent, headers={"Idempotency-Key": "h-1"})
        items: list[dict[str, Any]] = response.json()["items"]
        return items

    first = batch(GOOD, b"no image")
    again = batch(GOOD, BAD, GOOD)
    assert again[0]["inspection"] == first[0]["inspection"]
    assert again[1]["inspection"]["decision"] == "fail"
    assert again[2]["inspection"]["id"] != again[0]["inspection"]["id"]
    changed = batch(BAD)
    assert changed[0]["problem"]["type"] == "/problems#idempotency-key-used"


def test_keys_of_a_batch_are_no_keys_of_single_requests(service: HttpService) -> None:
    sent = [("image", ("0.png", GOOD, "image/png"))]
    service.client.post(f"{INSPECT}:batch", files=sent, headers={"Idempotency-Key": "l-1"})
    for key in ("l-1", "l-1#0", "l-1-0"):
        assert "idempotency-replayed" not in send(service, key).headers
    assert send(service, "l-1 0").status_code == 422


def test_client_sends_a_key_of_its_own_and_takes_one(service: RunningService) -> None:
    with Client(str(service.client.base_url)) as client:
        one, two = client.inspect("widget", GOOD), client.inspect("widget", GOOD)
        same = [client.inspect("widget", GOOD, idempotency_key="i-1").id for _ in range(2)]
    assert one.id != two.id
    assert same[0] == same[1]


def test_old_keys_are_removed(service: RunningService) -> None:
    first = send(service, "j-1").json()
    later = Clock(lambda _: None)
    sweeper = RetentionSweeper(service.store, list, Metrics(), 60, clock=later, key_age=timedelta(hours=1))
    sweeper.sweep()
    assert send(service, "j-1").json()["id"] == first["id"]
    with patch.object(later, "now", lambda: datetime.now(UTC) + timedelta(hours=2)):
        sweeper.sweep()
    assert send(service, "j-1").json()["id"] != first["id"]


def test_keys_survive_a_restart(serve: Serve) -> None:
    with serve() as service:
        first = send(service, "k-1").json()
    with serve() as service:
        assert send(service, "k-1").json() == first


@pytest.mark.slow
def test_kill_at_any_moment_leaves_one_inspection_per_key(tiny_models: Path, tmp_path: Path) -> None:
    ids: dict[str, str] = {}
    for attempt in range(3):
        with service_process(tiny_models, tmp_path / "data") as process:
            process.wait_until(200)
            stop = threading.Timer(0.3, process.kill)
            stop.start()
            with httpx.Client(base_url=process.url, timeout=10) as client:
                for number in range(1000):
                    key = f"{number % 7}-{attempt * 1000 + number // 7}" if number % 2 else f"again-{number // 2}"
                    headers = {"content-type": "image/png", "Idempotency-Key": key}
                    try:
                        response = client.post(INSPECT, content=GOOD, headers=headers)
                    except httpx.TransportError:
                        break
                    assert ids.setdefault(key, response.json()["id"]) == response.json()["id"]
            stop.join()
    with run_service(tiny_models, tmp_path / "data") as service:
        assert ids
        for key, inspection in list(ids.items())[:50]:
            assert send(service, key).json()["id"] == inspection
        with service.store.engine.connect() as connection:
            rows = connection.execute(text("SELECT count(*), count(DISTINCT key) FROM idempotency_keys")).one()
        assert rows[0] == rows[1] == count(service)
