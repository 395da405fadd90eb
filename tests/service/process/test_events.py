"""Two services on one database: a client follows the inspections of both, from either, and loses and repeats none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.events import follow
from tests.service.process.test_postgres import inspect, serving
from tests.serving import ServiceProcess

pytestmark = pytest.mark.slow


def test_events_of_two_services_are_followed_from_either(tiny_models: Path, tmp_path: Path, postgres_url: str) -> None:
    with ExitStack() as stack:
        services = [stack.enter_context(serving(tiny_models, tmp_path / "data", postgres_url)) for _ in range(2)]
        clients = [stack.enter_context(httpx.Client(base_url=service.url, timeout=20)) for service in services]
        pool = stack.enter_context(ThreadPoolExecutor(6))
        with follow(clients[0]) as events:
            cursor = events.cursor

        def send(service: ServiceProcess) -> str:
            response = inspect(service)
            assert response.status_code == 201, response.text
            identity: str = response.json()["id"]
            return identity

        read: list[str] = []
        sent = [pool.submit(send, services[number % 2]) for number in range(60)]
        for number, count in enumerate((1, 7, 2, 13, 1, 9, 12)):  # from one service to the other, in between
            with follow(clients[number % 2], after=cursor) as events:
                read += [event.data["id"] for event in events.take(count)]
                cursor = events.cursor
        ids = {one.result() for one in sent}
        assert services[0].terminate() == 0
        with follow(clients[1], after=cursor) as events:
            read += [event.data["id"] for event in events.take(60 - len(read))]
            assert events.skip().data is None
        assert len(read) == 60
        assert set(read) == ids


def test_service_stops_at_once_with_open_streams(tiny_models: Path, tmp_path: Path, postgres_url: str) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(serving(tiny_models, tmp_path / "data", postgres_url))
        client = stack.enter_context(httpx.Client(base_url=service.url, timeout=20))
        events = stack.enter_context(follow(client))
        service.process.terminate()
        assert all(event.data is None for event in events.rest())
        assert service.process.wait(5) == 0
