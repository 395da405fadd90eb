"""The application on a real Ray cluster: two replicas of the service, two that run graphs, PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.deployment.passed_tests import SELF_TESTS
from tests.postgres import PostgresServer, migrated_database
from tests.ray_serve import RayService, ray_serve_process
from tests.running_service import BAD, GOOD, INSPECT, encode, shared_self_tests
from tests.service.process.test_serving import IMAGE

pytestmark = pytest.mark.slow

# 5 MB of noise, which no encoding makes smaller.
LARGE = encode(np.random.default_rng(0).integers(0, 256, (1290, 1290, 3), dtype=np.uint8))
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def ray(postgres: PostgresServer, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayService]:
    data = tmp_path_factory.mktemp("data")
    (data / SELF_TESTS).symlink_to(shared_self_tests())
    with migrated_database(postgres) as url:
        settings = {"provider": "cpu", "database_url": url, "database_pool_size": "8"}
        with ray_serve_process(tiny_models, data, settings, ingresses=2, inspectors=2) as service:
            yield service


@pytest.fixture
def client(ray: RayService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=ray.url, timeout=DEADLINE_S) as client:
        yield client


def inspect(client: httpx.Client, image: bytes = GOOD, **headers: str) -> httpx.Response:
    return client.post(INSPECT, content=image, headers=IMAGE | headers)


def inspect_as_camera(client: httpx.Client, image: bytes = GOOD) -> httpx.Response:
    """Send an image until it is accepted. On a busy machine, its body may reach the replica late (408)."""
    give_up = time.monotonic() + DEADLINE_S
    while True:
        response = inspect(client, image)
        if response.status_code not in {408, 503} or time.monotonic() > give_up:
            return response


def test_images_are_inspected_and_replayed_to_the_last_bit(client: httpx.Client) -> None:
    good, bad = inspect(client), inspect(client, BAD)
    assert (good.status_code, good.json()["decision"]) == (201, "pass"), good.text
    assert (bad.status_code, bad.json()["decision"]) == (201, "fail"), bad.text
    for verdict in (good.json(), bad.json()):
        replayed = client.post(f"/v1/inspections/{verdict['id']}:replay").json()
        assert (replayed["outcome"], replayed["tolerance"]) == ("same", 0.0)
        assert client.get(verdict["links"]["self"]).json() == verdict


def test_a_response_has_one_request_id(client: httpx.Client) -> None:
    own = client.get("/health/ready")
    assert len(own.headers.get_list("x-request-id")) == 1
    assert client.get("/health/ready", headers={"x-request-id": "line-3"}).headers.get_list("x-request-id") == [
        "line-3"
    ]
    refused = client.get("/v1/inspections/none", headers={"x-request-id": "line-4"})
    assert refused.json()["instance"].endswith(":line-4")


def test_an_image_of_5_mb_passes_the_proxy(client: httpx.Client) -> None:
    assert len(LARGE) > 4.9e6
    response = inspect(client, LARGE)
    assert response.status_code == 201, response.text
    assert client.get(response.json()["links"]["image"]).content == LARGE
    too_large = inspect(client, bytes(33 * 2**20))
    assert (too_large.status_code, too_large.json()["type"].partition("#")[2]) == (413, "body-too-large")


def test_runs_of_one_product_use_both_replicas_that_run_graphs(ray: RayService, client: httpx.Client) -> None:
    # Ray sends a run to a replica that has the graph, as long as that accepts it.
    give_up = time.monotonic() + DEADLINE_S
    before = sum(ray.runs())
    with ThreadPoolExecutor(8) as pool:
        while (runs := ray.runs()) and (sum(runs) < before + 40 or min(runs) < sum(runs) / 10):
            assert time.monotonic() < give_up, runs
            responses = list(pool.map(lambda _: inspect_as_camera(client), range(40)))
            assert {response.status_code for response in responses} == {201}
    assert len(runs) == 2


def test_the_loss_of_a_replica_that_runs_graphs_loses_no_inspection(ray: RayService, client: httpx.Client) -> None:
    victim, other = ray.replicas("Inspector")
    with ThreadPoolExecutor(4) as pool:
        pending = [pool.submit(inspect_as_camera, client, BAD) for _ in range(20)]
        victim.kill()
        responses = [one.result() for one in pending] + [inspect_as_camera(client, BAD)]
    assert {(response.status_code, response.json().get("decision")) for response in responses} == {(201, "fail")}
    ray.wait_for_replicas("Inspector", 1, besides=(victim.pid, other.pid))


def test_the_service_survives_the_loss_of_a_replica(ray: RayService, client: httpx.Client) -> None:
    before = inspect_as_camera(client).json()
    victim, other = ray.replicas("Ingress")
    victim.kill()
    give_up = time.monotonic() + DEADLINE_S
    responses: list[httpx.Response] = []
    while len(responses) < 10 or responses[-1].status_code >= 300:
        # Without a replica, or with one that has just died, Ray's proxy reports 500 or 503.
        responses.append(inspect(client, GOOD, **{"idempotency-key": "part-1"}))
        assert responses[-1].status_code in {200, 201, 408, 500, 503}, responses[-1].text
        assert time.monotonic() < give_up, responses[-1].text
    answered = [response.json() for response in responses if response.status_code < 300]
    assert len({verdict["id"] for verdict in answered}) == 1
    assert client.get(before["links"]["self"]).json() == before
    ray.wait_for_replicas("Ingress", 1, besides=(victim.pid, other.pid))
