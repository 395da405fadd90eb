"""The query is read strictly, and HEAD works wherever GET does."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import quote

import pytest

from service.api import openapi
from tests.problems import assert_problem
from tests.running_service import GOOD, INSPECT, HttpService, RunningService, Serve

IMAGE = {"content-type": "image/png"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/inspections?part_id=A&part_id=B", "part_id"),
        ("/v1/inspections?limit=5&limit=5", "limit"),
        ("/v1/inspections?partid=A", "partid"),
        ("/v1/inspections?part_id=A&Part_Id=B", "Part_Id"),
        ("/v1/inspections?decision=pass&sort=asc", "sort"),
        ("/v1/inspections?=A", "``"),
        ("/v1/products?limit=5", "limit"),
        ("/v1/products/widget?version=1", "version"),
        ("/v1/products/widget/recipe?revision=1", "revision"),
        ("/health/live?verbose=1", "verbose"),
        ("/health/ready?verbose=1", "verbose"),
        pytest.param("/metrics?name=x", "name", marks=pytest.mark.per_replica),
        ("/?x", "x"),
    ],
)
def test_unknown_and_repeated_parameters_are_refused(service: HttpService, path: str, name: str) -> None:
    problem = assert_problem(service.client.get(path), 422, "invalid-request")
    assert name in problem["detail"]
    assert problem["errors"][0]["loc"][0] == "query"


@pytest.mark.parametrize("query", ["part_id=A&part_id=B", "part_id=A&partid=B", "lot=1&lot=1", "part=1"])
def test_image_with_an_unclear_part_is_not_inspected(service: HttpService, query: str) -> None:
    before = len(service.client.get("/v1/inspections?limit=500").json()["items"])
    assert_problem(service.client.post(f"{INSPECT}?{query}", content=GOOD, headers=IMAGE), 422, "invalid-request")
    assert len(service.client.get("/v1/inspections?limit=500").json()["items"]) == before


@pytest.mark.parametrize("part_id", ["A 1+2%3", "Größe&7=8", "部品/一", "a;b", "%41", "é"])
def test_part_id_is_never_mangled(service: HttpService, part_id: str) -> None:
    response = service.client.post(f"{INSPECT}?part_id={quote(part_id, safe='')}", content=GOOD, headers=IMAGE)
    assert response.json()["part_id"] == part_id
    found = service.client.get("/v1/inspections", params={"part_id": part_id}).json()["items"]
    assert found[0]["id"] == response.json()["id"]


@pytest.mark.parametrize(
    "query", [b"part_id=%ff", b"part_id=a%C3", b"part_id=%zz", b"part_id=50%", b"part_id=\xc3\xa9"]
)
def test_bytes_that_are_not_percent_encoded_utf_8_are_refused(service: RunningService, query: bytes) -> None:
    head = b"GET /v1/inspections?" + query + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with service.connect() as client:
        client.sendall(head)
        response = _read(client)
    assert response.startswith((b"HTTP/1.1 422", b"HTTP/1.1 400")), response[:200]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/", "/v1/products", "/openapi.json"])
def test_head_has_status_and_headers_of_get_without_a_body(service: RunningService, path: str) -> None:
    head, get = service.client.head(path), service.client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    with service.connect() as client:
        client.sendall(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        response = _read(client)
    assert response.startswith(b"HTTP/1.1 200")
    assert response.endswith(b"\r\n\r\n"), "no body"


def test_head_probes_are_counted_as_requests_and_not_as_problems(service: RunningService) -> None:
    for _ in range(3):
        service.client.head("/health/live")
    lines = service.client.get("/metrics").text.splitlines()
    assert any('method="HEAD"' in line and 'route="/health/live"' in line and 'status="200"' in line for line in lines)
    assert not any("method-not-allowed" in line for line in lines)


def test_head_of_a_route_without_get_is_refused(service: HttpService) -> None:
    assert service.client.head("/v1/products/widget/thresholds:propose").status_code == 405


def _read(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


@pytest.mark.parametrize(
    ("since", "words"),
    [
        ("2026-11-28", "such as 2026-03-01T08:30:00Z"),
        ("2026-11-28T06:00:00", "such as 2026-03-01T08:30:00Z"),
        ("2026-11-28T06:00:00+01:00", "write the + of a time zone as %2B"),
        ("2026-11-28T06:00:00.5+0100", "write the + of a time zone as %2B"),
    ],
)
def test_time_without_zone_or_with_an_unescaped_plus_is_explained(serve: Serve, since: str, words: str) -> None:
    with serve() as service:
        response = service.client.get(f"/v1/inspections?since={since}")
        assert response.status_code == 422
        assert words in response.json()["detail"]
        assert ("%2B" in response.json()["detail"]) == ("+" in since)
        escaped = since.replace("+", "%2B") if "+" in since else f"{since[:10]}T06:00:00Z"
        assert service.client.get(f"/v1/inspections?since={escaped}").status_code == 200


def test_first_query_does_not_make_the_document_on_the_event_loop(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers: list[bool] = []
    original = openapi._describe_access

    def describe(*arguments: Any) -> None:
        makers.append(is_on_event_loop())
        original(*arguments)

    monkeypatch.setattr(openapi, "_describe_access", describe)
    with serve() as service:
        assert not service.app.state.is_described
        assert service.client.get("/v1/inspections?limit=5").status_code == 200
        assert service.client.get("/v1/inspections?limt=5").status_code == 422
    assert makers == [False]


def is_on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
