"""The client follows inspections over lost connections, restarts and refusals."""

from __future__ import annotations

import asyncio
import threading

import pytest

from plumbline_client import AsyncClient, Client, ServiceProblem, ServiceUnreachable
from tests.access import OPERATOR, make_key
from tests.running_service import BAD, RunningService, Serve
from tests.service.api.test_events import add
from tests.service.api.test_shadow import wait_for


def test_events_continue_over_restarts_of_the_service(serve: Serve) -> None:
    with serve() as service:
        first = add(service)
        with Client(str(service.client.base_url)) as client:
            events = client.events(after=first)
            ids = [add(service) for _ in range(3)]
            assert [next(events).inspection.id for _ in range(3)] == ids
            for stream in list(service.services.events._streams):
                service.server.servers[0].get_loop().call_soon_threadsafe(stream.end)
            later = add(service, BAD, station="A")
            event = next(events)
            assert (event.inspection.id, event.inspection.decision) == (later, "fail")
            assert next(client.events(after=ids[-1], decision=["fail", "review"])).inspection.id == later
            assert next(client.events(after=first, station="A")).inspection.id == later
            assert client.shift().total == 5
            assert client.alarms() == []
            events.close()  # type: ignore[attr-defined]


def test_async_events(serve: Serve) -> None:
    async def follow(service: RunningService, first: str) -> list[str]:
        async with AsyncClient(str(service.client.base_url)) as client:
            events = client.events(after=first)
            return [(await anext(events)).inspection.id for _ in range(2)]

    with serve() as service:
        first, *ids = [add(service) for _ in range(3)]
        assert asyncio.run(follow(service, first)) == ids


def test_revoked_key_and_wrong_cursor_end_the_iteration(serve: Serve) -> None:
    with serve() as service:
        with Client(str(service.client.base_url)) as client, pytest.raises(ServiceProblem, match="not a cursor"):
            next(client.events(after="x"))
        key = make_key(service.store.engine, "inspect")
        wait_for(lambda: service.client.get("/v1/products").status_code == 401)
        with Client(str(service.client.base_url), api_key=key.key) as client:
            events = client.events()
            timer = threading.Timer(0.5, service.app.state.access.revoke_key, (key.record.id, OPERATOR))
            timer.start()
            with pytest.raises(ServiceProblem) as refused:
                next(events)
            assert refused.value.slug == "invalid-key"
            timer.join()


def test_first_connection_that_fails_is_reported() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceUnreachable):
        next(client.events())
