"""The stream of stored inspections: complete, without repetitions, bounded, and ended when it must end."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from service.app import begin_drain
from service.serving import events as serving_events
from service.serving import kept_events
from service.serving.events import HEARTBEAT_S
from service.store.models import InspectionRow
from service.store.session import transaction
from tests.access import OPERATOR, bearer, make_key, problem_of
from tests.events import EVENTS, follow
from tests.running_service import BAD, GOOD, HttpService, RunningService, Serve
from tests.service.api.test_shadow import wait_for
from tests.service.store.test_store import make_row


def add(service: HttpService, image: bytes = GOOD, **part: str) -> str:
    response = service.inspect(image, params=part)
    assert response.status_code == 201, response.text
    identity: str = response.json()["id"]
    return identity


def test_inspection_is_sent_as_it_is_read_later(service: HttpService) -> None:
    with follow(service.client) as events:
        identity = add(service, BAD, part_id="4711", station="A")
        [event] = events.take(1)
        assert event.data == service.client.get(f"/v1/inspections/{identity}").json()
        assert event.cursor
        headers = events.response.headers
        assert (headers["content-type"], headers["cache-control"]) == ("text/event-stream; charset=utf-8", "no-store")
        assert "content-length" not in headers


def test_every_client_continues_where_it_stopped(service: HttpService) -> None:
    with follow(service.client) as events:
        start = events.cursor
        first = add(service)
        events.take(1)
        cursor = events.cursor
    missed = [add(service) for _ in range(3)]
    with follow(service.client, after=cursor) as events, follow(service.client, {"last_event_id": start}) as others:
        assert [event.data["id"] for event in events.take(3)] == missed
        assert [event.data["id"] for event in others.take(4)] == [first, *missed]
        later = add(service)
        assert events.take(1)[0].data["id"] == others.take(1)[0].data["id"] == later
    with follow(service.client, {"last_event_id": start}, after=missed[-1]) as events:  # the header overrides
        assert events.take(1)[0].data["id"] == later


def test_events_are_kept_for_streams_only(service: RunningService) -> None:
    events = service.services.events
    with follow(service.client) as stream:
        add(service)
        stream.take(1)
        assert events.kept.since(events.kept.number - 1)
    wait_for(lambda: events._mark is None)  # without waiting for another inspection
    add(service)
    assert not events._wake.is_set(), "nothing is read without a stream"
    with follow(service.client) as stream:
        identity = add(service)
        assert stream.take(1)[0].data["id"] == identity, "nothing that was stored before the stream began"


def test_quiet_stream_has_heartbeats_and_a_position(service: HttpService) -> None:
    with follow(service.client, {"station": "nowhere"}) as events:
        begin = events.cursor
        started = time.monotonic()
        assert events.skip().data is None
        assert time.monotonic() - started < 2 * HEARTBEAT_S
        add(service)
        while events.cursor == begin:  # the position moves although no event matches
            assert events.skip().data is None


def test_filters(service: HttpService) -> None:
    queries: list[dict[str, str]] = [{"station": "A"}, {"decision": "fail"}, {"product": "widget", "decision": "pass"}]
    with follow(service.client) as everything:
        start = everything.cursor
        ids = [add(service, image, station=station) for image in (GOOD, BAD) for station in "AB"]
        everything.take(4)
    expected = [[ids[0], ids[2]], ids[2:], ids[:2]]
    for query, wanted in zip(queries, expected, strict=True):
        with follow(service.client, query, after=start) as events:
            assert [event.data["id"] for event in events.take(2)] == wanted
    with follow(service.client, {"product": "gadget"}, after=start) as events:
        assert events.skip().data is None


@pytest.mark.parametrize("query", ["product=a&product=b", "colour=red", "decision=good", "last_event_id=x", "limit=3"])
def test_wrong_query_of_the_events_is_refused(service: HttpService, query: str) -> None:
    response = service.client.get(f"{EVENTS}?{query}")
    assert problem_of(response) == (422, "invalid-request")


def test_wrong_header_is_refused(service: HttpService) -> None:
    for value in ("x", "9" * 5000):
        response = service.client.get(EVENTS, headers={"last-event-id": value})
        assert problem_of(response) == (422, "invalid-request")


def test_head_returns_headers_only(service: RunningService) -> None:
    response = service.client.head(EVENTS)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert not service.services.events._streams


def test_restricted_key_receives_what_it_permits(serve: Serve) -> None:
    with serve() as service:
        engine = service.store.engine
        station, other = (make_key(engine, "inspect", stations=[name]) for name in "AB")
        everything = make_key(engine, "inspect", "engineer")
        wait_for(lambda: service.client.get("/v1/products").status_code == 401)
        with (
            follow(service.client, headers=bearer(station)) as of_station,
            follow(service.client, headers=bearer(everything)) as of_all,
        ):
            start = of_all.cursor
            ids = [
                service.inspect(GOOD, params={"station": name}, headers=bearer(everything)).json()["id"]
                for name in ("B", "A", "B", "A")
            ]
            assert [event.data["id"] for event in of_station.take(2)] == ids[1::2]
            assert [event.data["id"] for event in of_all.take(4)] == ids
        with follow(service.client, after=start, headers=bearer(other)) as events:
            assert [event.data["id"] for event in events.take(2)] == ids[::2]
        product = make_key(engine, "inspect", products=["gadget"])
        refused = service.client.get(EVENTS, params={"product": "widget"}, headers=bearer(product))
        assert problem_of(refused) == (403, "not-permitted")


def test_revoked_key_ends_the_stream(serve: Serve) -> None:
    with serve() as service:
        key = make_key(service.store.engine, "inspect")
        wait_for(lambda: service.client.get("/v1/products").status_code == 401)
        with follow(service.client, headers=bearer(key)) as events:
            service.app.state.access.revoke_key(key.record.id, OPERATOR)
            [event] = events.take(1)
            assert event.name == "problem"
            assert event.data["type"].endswith("#invalid-key")
            assert events.rest() == []
        assert service.client.get(EVENTS, headers=bearer(key)).status_code == 401


def test_inspection_of_another_process_is_sent_although_this_one_has_stored_nothing(serve: Serve) -> None:
    with serve() as service, follow(service.client) as events:
        time.sleep(2 * serving_events._PAUSE_S)
        record = make_row()
        with transaction(service.store.engine, "test") as connection:
            connection.execute(insert(InspectionRow.__table__).values(record.columns()))  # type: ignore[arg-type]
        received = [events.skip().data for _ in range(4)]
        assert record.id in {data["id"] for data in received if data is not None}


def test_number_of_streams_is_limited_and_shared_between_clients(serve: Serve) -> None:
    with serve(max_event_streams=2) as service:
        with follow(service.client), follow(service.client) as second:
            refused = service.client.get(EVENTS)
            assert problem_of(refused) == (503, "too-many-event-streams")
            assert float(refused.headers["retry-after"]) > 0
            assert "inspection_event_streams 2.0" in service.client.get("/metrics").text
            second.response.close()
        wait_for(lambda: not service.services.events._streams)
    with serve(max_event_streams=2) as service:
        keys = [make_key(service.store.engine, "inspect") for _ in range(2)]
        wait_for(lambda: service.client.get("/v1/products").status_code == 401)
        with (
            follow(service.client, headers=bearer(keys[0])) as oldest,
            follow(service.client, headers=bearer(keys[0])),
            follow(service.client, headers=bearer(keys[1])),
        ):
            assert all(event.data is None for event in oldest.rest())
            assert problem_of(service.client.get(EVENTS, headers=bearer(keys[1]))) == (503, "too-many-event-streams")


def test_healthy_stream_outlives_the_timeouts_of_connections(serve: Serve) -> None:
    timeouts = dict.fromkeys(("idle_timeout_s", "write_timeout_s", "header_timeout_s", "body_timeout_s"), 0.3)
    with serve(**timeouts) as service, follow(service.client) as events:
        for _ in range(3):
            assert events.skip().data is None
        identity = add(service)
        assert events.take(1)[0].data["id"] == identity


def test_slow_reader_is_disconnected_and_continues(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_events, "KEPT_EVENTS", 5)
    monkeypatch.setattr(serving_events, "_PIECE_BYTES", 1)
    with serve() as service:
        render = service.services.events._render
        service.services.events._render = lambda record: render(record) + " " * 200_000
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.sendall(f"GET {EVENTS} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
            assert b"text/event-stream" in connection.recv(4096)
            ids = [add(service) for _ in range(60)]
            service.services.events._render = render
            slow = service.app.state.metrics.slow_event_streams
            received = b""
            while piece := connection.recv(65536):
                received += piece
            assert slow._value.get() == 1
        *_, cursor = [line for line in received.split(b"\n") if line.startswith(b"id: ")]
        seen = received.count(b"data: {")
        with follow(service.client, after=cursor[4:].decode()) as events:
            assert [event.data["id"] for event in events.take(60 - seen)] == ids[seen:]


def test_streams_end_at_once_when_the_service_stops(serve: Serve) -> None:
    with serve() as service:
        with follow(service.client) as events:
            service.server.servers[0].get_loop().call_soon_threadsafe(begin_drain, service.app)
            started = time.monotonic()
            assert all(event.data is None for event in events.rest())
            assert time.monotonic() - started < HEARTBEAT_S
        assert problem_of(service.client.get(EVENTS)) == (503, "shutting-down")


def test_server_stops_at_once_with_open_streams(serve: Serve) -> None:
    with serve() as service, httpx.Client(base_url=service.client.base_url) as client:
        response = client.send(client.build_request("GET", EVENTS), stream=True)
        started = time.monotonic()
        service.server.should_exit = True
        response.read()
        assert time.monotonic() - started < 3


def test_closed_connection_is_noticed(service: RunningService) -> None:
    with follow(service.client):
        assert len(service.services.events._streams) == 1
    wait_for(lambda: not service.services.events._streams)


def test_restart_loses_and_repeats_nothing(serve: Serve, database_url: str) -> None:
    ids: list[str] = []
    read: list[str] = []
    cursor: str | None = None

    def send(service: RunningService, count: int) -> list[str]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda _: add(service), range(count)))

    for _ in range(3):
        with serve(database_url=database_url) as service:
            if cursor is None:
                with follow(service.client) as events:
                    cursor = events.cursor
            ids += send(service, 6)
            with follow(service.client, after=cursor) as events, ThreadPoolExecutor(1) as pool:
                more = pool.submit(send, service, 6)
                read += [event.data["id"] for event in events.take(9)]
                cursor = events.cursor
                ids += more.result()
    with serve(database_url=database_url) as service, follow(service.client, after=cursor) as events:
        read += [event.data["id"] for event in events.take(9)]
        assert events.skip().data is None
    assert len(read) == len(set(read)) == 36
    assert set(read) == set(ids)


def test_store_that_cannot_be_read_is_a_problem(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.store.errors import StoreUnavailable

    with serve() as service:

        def fail(*_: Any) -> None:
            raise StoreUnavailable("the disk is broken")

        feed = service.services.events.feed
        with follow(service.client) as events:
            monkeypatch.setattr(feed, "head", fail)
            assert problem_of(service.client.get(EVENTS)) == (503, "store-unavailable")
            add(service)
            time.sleep(0.2)
            monkeypatch.undo()
            assert len(events.take(1)) == 1
