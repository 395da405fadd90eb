"""Replicas on one PostgreSQL database behind a real HAProxy: routing, changes, a replica that stops or is killed."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
from sqlalchemy import create_engine, text
from websockets.sync.client import connect

from benchmarks.many_products import record_self_tests
from service.access.keys import NewKey
from service.settings import Settings
from service.store.advisory_locks import job_lock, sink_lock
from tests.access import PASSWORD, bearer, make_account, make_key
from tests.bundles import write_tiny_bundle
from tests.certificates import make_certificate
from tests.events import follow
from tests.postgres import PostgresServer, migrated_database
from tests.proxy import Proxy, proxy_process
from tests.running_service import GOOD, encode
from tests.service.process.test_postgres import serving
from tests.service.process.test_serving import IMAGE, wait_for
from tests.serving import ServiceProcess

pytestmark = pytest.mark.slow

# Which replica a product has follows from its name, so that both have some.
PRODUCTS = ("bolt", "gear", "shaft", "widget")
CAMERAS = 6
# A sink that nobody receives: its messages stay, and one replica tries to deliver them.
SINK = """
[[sink]]
name = "mes"
kind = "webhook"
url = "http://127.0.0.1:9/"
"""
JOBS = {"retention": job_lock("retention"), "drift": job_lock("drift"), "sink": sink_lock("mes")}
LARGE = encode(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))


@dataclass
class Fleet:
    """Two replicas behind HAProxy, and a key for everything."""

    models: Path
    data: Path
    database_url: str
    settings: dict[str, str]
    replicas: list[ServiceProcess]
    proxy: Proxy
    headers: dict[str, str]

    @contextmanager
    def client(self, url: str | None = None) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=url or self.proxy.url, headers=self.headers, timeout=60) as client:
            yield client

    def make_key(self, *scopes: Any) -> NewKey:
        engine = create_engine(self.database_url)
        try:
            return make_key(engine, *scopes)
        finally:
            engine.dispose()


@pytest.fixture(scope="module")
def fleet(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    models, data = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("data")
    bundles = [write_tiny_bundle(models, product) for product in PRODUCTS]
    record_self_tests(bundles, data, Settings(provider="cpu"))
    with ExitStack() as stack:
        url = stack.enter_context(migrated_database(postgres))
        engine = create_engine(url)
        headers = bearer(make_key(engine, "admin", "engineer", "inspect"))
        engine.dispose()
        settings = {"database_pool_size": "8", "sinks": str(data / "sinks.toml")}
        (data / "sinks.toml").write_text(SINK)
        replicas = [stack.enter_context(serving(models, data, url, **settings)) for _ in range(2)]
        addresses = [urlsplit(replica.url).netloc for replica in replicas]
        proxy = stack.enter_context(proxy_process(addresses))
        proxy.wait_for_replicas(2)
        yield Fleet(models, data, url, settings, replicas, proxy, headers)


def path_of(product: str) -> str:
    return f"/v1/products/{product}/inspections"


def inspect(client: httpx.Client, product: str = "widget", **headers: str) -> httpx.Response:
    return client.post(path_of(product), content=GOOD, headers=IMAGE | headers)


def leader_of(fleet: Fleet, job: str) -> int | None:
    """Return the TCP port from which the process that does a job is connected; None if no process does it."""
    key = JOBS[job] & (2**64 - 1)
    query = text(
        "SELECT client_port FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE locktype = 'advisory' AND granted AND datname = current_database() AND classid = :high AND objid = :low"
    )
    engine = create_engine(fleet.database_url)
    try:
        with engine.connect() as connection:
            port: int | None = connection.scalar(query, {"high": key >> 32, "low": key & (2**32 - 1)})
            return port
    finally:
        engine.dispose()


def is_leader(fleet: Fleet, replica: ServiceProcess, job: str) -> bool:
    ports = {one.laddr.port for one in psutil.Process(replica.process.pid).net_connections("tcp")}
    return leader_of(fleet, job) in ports


def change_recipe(client: httpx.Client, threshold: float, product: str = "widget") -> int:
    url = f"/v1/products/{product}/recipe"
    body = {"reason": "test", "fail_threshold": threshold, "review_threshold": 0.0}
    response = client.put(url, json=body, headers={"if-match": client.get(url).headers["etag"]})
    assert response.status_code == 200, response.text
    revision: int = response.json()["revision"]
    return revision


def test_requests_about_a_product_stay_at_one_replica(fleet: Fleet) -> None:
    with fleet.client() as client:
        for _ in range(4):
            for product in PRODUCTS:
                response = inspect(client, product)
                assert response.status_code == 201, response.text
    for product in PRODUCTS:
        wait_for(lambda: len(fleet.proxy.replicas(product)) >= 4)  # noqa: B023
    chosen = {product: set(fleet.proxy.replicas(product)) for product in PRODUCTS}
    assert {len(replicas) for replicas in chosen.values()} == {1}, chosen
    assert set().union(*chosen.values()) == {"replica1", "replica2"}, chosen


def test_busy_product_spills_over(fleet: Fleet) -> None:
    before = len(fleet.proxy.replicas("gear"))
    with fleet.client() as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: inspect(client, "gear").status_code, range(64)))
    assert set(answers) == {201}
    wait_for(lambda: len(fleet.proxy.replicas("gear")) >= before + 64)
    assert set(fleet.proxy.replicas("gear")[before:]) == {"replica1", "replica2"}


def test_replica_receives_the_address_of_the_client_from_the_proxy_only(fleet: Fleet) -> None:
    with fleet.client() as client:
        client.headers.update({"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9"})
        change_recipe(client, 7.0, "bolt")
        entry = client.get("/v1/audit", params={"action": "recipe:put", "product": "bolt"}).json()["items"][0]
        assert entry["address"] == "127.0.0.1"
        assert client.get("/metrics").status_code == 404


def test_tls_ends_at_the_proxy(fleet: Fleet, tmp_path: Path) -> None:
    certificate = make_certificate()
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.certificate + certificate.key)
    engine = create_engine(fleet.database_url)
    make_account(engine, "kim")
    engine.dispose()
    addresses = [urlsplit(replica.url).netloc for replica in fleet.replicas]
    with proxy_process(addresses, {"PLUMBLINE_PROXY_CERTIFICATE": str(both)}) as proxy:
        proxy.wait_for_replicas(2)
        with httpx.Client(base_url=proxy.url, verify=certificate.trust(), timeout=60) as client:
            response = client.post("/v1/access/login", json={"name": "kim", "password": PASSWORD})
            assert response.status_code == 200, response.text
            # The service knows that the client uses TLS.
            assert response.headers["set-cookie"].startswith("__Host-")
            assert "Secure" in response.headers["set-cookie"]
            assert client.get("/v1/access/me").json()["name"] == "kim"


def test_large_bodies_streams_and_events_pass(fleet: Fleet) -> None:
    with fleet.client() as client:
        assert len(LARGE) > 2**20
        with follow(client) as events:
            response = client.post(path_of("shaft"), content=LARGE, headers=IMAGE)
            assert response.status_code == 201, response.text
            ids = [response.json()["id"]]
            socket = f"ws{fleet.proxy.url.removeprefix('http')}/v1/products/shaft/stream"
            with connect(socket, compression=None, additional_headers=fleet.headers) as camera:
                camera.send('{"type": "hello"}')
                assert '"ready"' in str(camera.recv())
                camera.send(LARGE)
                assert '"decision"' in str(camera.recv())
            ids.append(inspect(client).json()["id"])
            # Stored by whichever replica: every page of events shows the inspections of all.
            found = [event.data["id"] for event in events.take(3)]
            assert set(ids) <= set(found)


def test_paused_replica_judges_by_the_new_recipe(fleet: Fleet) -> None:
    first, second = fleet.replicas
    with fleet.client(first.url) as changing, fleet.client(second.url) as judging, ThreadPoolExecutor(8) as pool:
        assert inspect(judging).status_code == 201
        revision = change_recipe(changing, 11.0)
        assert inspect(judging).json()["recipe_revision"] == revision
        second.process.send_signal(signal.SIGSTOP)
        try:
            # They wait in the paused process. It has not read anything since before the change.
            waiting: list[Future[httpx.Response]] = [pool.submit(inspect, judging) for _ in range(4)]
            revision = change_recipe(changing, 12.0)
        finally:
            second.process.send_signal(signal.SIGCONT)
        waiting.append(pool.submit(inspect, judging))
        found = [one.result() for one in waiting]
        assert {response.json()["recipe_revision"] for response in found} == {revision}


def test_revoked_key_is_refused_by_every_replica_at_once(fleet: Fleet) -> None:
    first, second = fleet.replicas
    with fleet.client(first.url) as changing, httpx.Client(base_url=second.url, timeout=60) as sending:
        for _ in range(3):
            key = fleet.make_key("inspect")
            headers = bearer(key)
            assert inspect(sending, **headers).status_code == 201
            assert inspect(sending, **headers).status_code == 201  # from the cache
            assert changing.post(f"/v1/access/keys/{key.record.id}:revoke").status_code == 200
            refused = inspect(sending, **headers)
            assert (refused.status_code, refused.json()["type"].partition("#")[2]) == (401, "invalid-key")


@dataclass
class Camera:
    """Sends parts one after the other, each with an idempotency key, and sends a part again after a 503."""

    number: int
    stored: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: Counter[type[Exception]] = field(default_factory=Counter)

    def run(self, fleet: Fleet, stop: threading.Event) -> None:
        product, count = PRODUCTS[self.number % len(PRODUCTS)], 0
        with fleet.client() as client:
            while not stop.is_set():
                count += 1
                part = f"{self.number}-{count}-{os.getpid()}"
                while not stop.is_set():
                    try:
                        # Images larger and smaller than the buffer in which HAProxy keeps a request to send it again.
                        response = client.post(
                            path_of(product),
                            params={"part_id": part},
                            content=LARGE if count % 4 == 0 else GOOD,
                            headers=IMAGE | {"Idempotency-Key": part},
                        )
                    except httpx.TransportError as error:
                        self.broken[type(error)] += 1
                        continue
                    self.statuses[response.status_code] += 1
                    if response.status_code != 503:
                        self.stored[part] = response.json()["id"]
                        stop.wait(0.05)  # a camera, and less work for the machine that runs the test
                        break
                    assert "retry-after" in response.headers
                    assert response.headers["content-type"] == "application/problem+json"
                    stop.wait(0.05)


def test_killed_replica_is_replaced_without_an_error_but_503(fleet: Fleet) -> None:
    wait_for(lambda: all(leader_of(fleet, job) for job in JOBS))
    victim, survivor = sorted(fleet.replicas, key=lambda one: is_leader(fleet, one, "retention"), reverse=True)
    stop, cameras = threading.Event(), [Camera(number) for number in range(CAMERAS)]

    def is_going_on(count: int) -> None:
        before = [len(camera.stored) for camera in cameras]
        wait_for(lambda: all(len(one.stored) >= old + count for one, old in zip(cameras, before, strict=True)), 120)

    with ThreadPoolExecutor(CAMERAS) as pool, ExitStack() as stack:
        stack.callback(stop.set)
        for camera in cameras:
            pool.submit(camera.run, fleet, stop)
        is_going_on(5)
        victim.kill()
        is_going_on(5)
        fleet.proxy.wait_for_replicas(1)
        wait_for(lambda: all(is_leader(fleet, survivor, job) for job in JOBS))
        port = str(urlsplit(victim.url).port)
        again = stack.enter_context(serving(fleet.models, fleet.data, fleet.database_url, port=port, **fleet.settings))
        fleet.proxy.wait_for_replicas(2)
        is_going_on(5)
        stop.set()
        pool.shutdown()
        statuses = sum((camera.statuses for camera in cameras), Counter[int]())
        assert set(statuses) <= {200, 201, 503}, statuses
        # HAProxy reports a replica that ends on a connection that was used before by closing the client's, as the
        # replica itself would: the client sends the part again. Only requests in flight at the kill are affected.
        broken = sum((camera.broken for camera in cameras), Counter[type[Exception]]())
        assert set(broken) <= {httpx.RemoteProtocolError, httpx.ReadError}, broken
        assert broken.total() <= 2 * CAMERAS
        with fleet.client(again.url) as client:
            for part, inspection in (item for camera in cameras for item in camera.stored.items()):
                found = client.get("/v1/inspections", params={"part_id": part}).json()["items"]
                assert [item["id"] for item in found] == [inspection]
