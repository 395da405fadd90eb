"""The service as real processes on a real PostgreSQL server: shared by two, restarted, killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.command_line import run
from tests.postgres import PASSWORD, PostgresServer
from tests.running_service import GOOD, INSPECT
from tests.service.process.test_serving import IMAGE, Clients, assert_stored
from tests.serving import ROOT, ServiceProcess, service_process

pytestmark = pytest.mark.slow

RECIPE = "/v1/products/widget/recipe"
SIGNATURE = {"author": "a", "reason": "b"}
FOREIGN = ("psycopg", "FATAL", "sqlalche", "SELECT", "INSERT", PASSWORD)


@contextmanager
def serving(
    models: Path, data: Path, database_url: str, program: Path = ROOT, /, **settings: str
) -> Iterator[ServiceProcess]:
    chosen = {"provider": "cpu", "database_url": database_url, "database_connect_timeout_s": "2"} | settings
    with service_process(models, data, chosen, program=program) as service:
        service.wait_until(200)
        yield service


def inspect(service: ServiceProcess) -> httpx.Response:
    return httpx.post(service.url + INSPECT, content=GOOD, headers=IMAGE, timeout=30)


def all_inspections(service: ServiceProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next_cursor": None}
    while not found or page["next_cursor"]:
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
        page = httpx.get(f"{service.url}/v1/inspections", params={"limit": 500} | cursor, timeout=30).json()
        found += page["items"]
    return found


def change_recipe(service: ServiceProcess, threshold: float, revision: int) -> httpx.Response:
    body = SIGNATURE | {"fail_threshold": threshold, "review_threshold": 0.0}
    return httpx.put(service.url + RECIPE, json=body, headers={"if-match": f'"{revision}"'}, timeout=30)


def test_two_services_share_a_database(
    tiny_models: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(serving(tiny_models, tmp_path / "data", postgres_url)) for _ in range(2))
        verdict = inspect(first).json()
        assert_stored(second, [inspect(first)])
        listed = httpx.get(f"{second.url}/v1/inspections").json()["items"]
        assert verdict["id"] in {item["id"] for item in listed}
        replayed = httpx.post(f"{second.url}/v1/inspections/{verdict['id']}:replay", timeout=30)
        assert replayed.json()["outcome"] == "same", replayed.text

        # A changed recipe judges the next image of the other process.
        revision = httpx.get(first.url + RECIPE).json()["revision"]
        for changing, judging in ((first, second), (second, first)):
            response = change_recipe(changing, 5.0 + revision, revision)
            assert response.status_code == 200, response.text
            revision = response.json()["revision"]
            assert inspect(judging).json()["recipe_revision"] == revision

        # Of two changes that are based on the same revision, one is refused.
        for _ in range(4):
            with ThreadPoolExecutor(2) as pool:
                base = revision
                results = list(pool.map(lambda service: change_recipe(service, 9.0, base), (first, second)))  # noqa: B023
            assert sorted(result.status_code for result in results) == [200, 412]
            revision += 1
        assert httpx.get(second.url + RECIPE).json()["revision"] == revision

    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", postgres_url)
    result = run("replay", verdict["id"], "--models", tiny_models, "--data", tmp_path / "data", "--provider", "cpu")
    assert result.exit_code == 0, result.output
    assert "same" in result.output


def test_service_recovers_from_a_restart_of_the_server(
    tiny_models: Path, tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with own_postgres.database() as url, serving(tiny_models, tmp_path / "data", url) as service:
        assert inspect(service).status_code == 201
        own_postgres.stop()
        ready = service.wait_until(503)
        assert "database" in ready.text
        refused = inspect(service)
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["type"].endswith("#store-unavailable")
        for response in (ready, refused):
            assert not any(word in response.text for word in FOREIGN), response.text
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        own_postgres.start()
        service.wait_until(200)
        assert inspect(service).status_code == 201
        # A server that does not respond at all: the probe waits for a statement, or for a new connection.
        with own_postgres.frozen():
            text = service.wait_until(503).text
            assert "has not responded" in text or "database" in text, text
        service.wait_until(200)
        assert inspect(service).status_code == 201


def test_nothing_that_was_returned_is_lost_when_either_side_is_killed(
    tiny_models: Path, tmp_path: Path, own_postgres: PostgresServer
) -> None:
    returned: list[httpx.Response] = []
    with own_postgres.database() as url:
        with serving(tiny_models, tmp_path / "data", url) as service:
            clients = Clients(service.url)
            for round_ in range(1, 3):
                clients.wait_for(25 * round_)
                own_postgres.stop(signal.SIGQUIT)
                time.sleep(0.2)
                own_postgres.start()
                service.wait_until(200)
            seen = len(clients.responses)
            clients.wait_for(seen + 25)
            service.kill()
            clients.stop()
        assert {response.status_code for response in clients.responses} <= {201, 503}
        for response in clients.responses:
            if response.status_code == 503:
                assert "retry-after" in response.headers
                assert not any(word in response.text for word in FOREIGN)
        returned = [response for response in clients.responses if response.status_code == 201]
        assert len(returned) >= 50
        with serving(tiny_models, tmp_path / "data", url) as service:
            listed = all_inspections(service)
            assert {response.json()["id"] for response in returned} <= {item["id"] for item in listed}
            assert_stored(service, returned[-10:])
            for item in listed[:10]:  # whether or not its response was sent
                for artefact in ("image", "map"):
                    assert httpx.get(service.url + item["links"][artefact]).status_code == 200
