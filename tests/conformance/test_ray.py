"""The API test suite against two replicas of each deployment on Ray Serve, and then the loss and the start of replicas.

They share one cluster, because its start takes longer than all these tests.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.conformance.deployments import Deployment
from tests.conformance.suite import collect_suite
from tests.ray_serve import RayService
from tests.running_service import BAD, GOOD, INSPECT, encode
from tests.service.api.test_batches import ZIP, zipped
from tests.service.process.test_serving import IMAGE

DEPLOYMENT = "ray"
pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
ROUNDS = 5
LEAST_SHARE = 0.2

globals().update(collect_suite())


@pytest.fixture(scope="module")
def ray(deployment: Deployment) -> RayService:
    assert deployment.addresses.ray is not None
    return deployment.addresses.ray


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> httpx.Client:
    return deployment.service.client


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


def test_a_body_of_5_mb_passes_the_proxy(client: httpx.Client) -> None:
    # Each image is smaller than the limit of the suite, and noise, which no encoding makes smaller.
    pixels = np.random.default_rng(0).integers(0, 256, (52, 180, 180, 3), dtype=np.uint8)
    images = [encode(one) for one in pixels]
    body = zipped([(f"{number}.png", image) for number, image in enumerate(images)])
    assert len(body) > 5e6
    response = client.post(f"{INSPECT}:batch", content=body, headers=ZIP)
    assert response.status_code == 200, response.text
    stored = [item["inspection"]["links"]["image"] for item in response.json()["items"]]
    assert [client.get(link).content for link in stored] == images
    too_large = inspect(client, bytes(33 * 2**20))
    assert (too_large.status_code, too_large.json()["type"].partition("#")[2]) == (413, "body-too-large")


def runs_of_cameras(ray: RayService, client: httpx.Client) -> Counter[str]:
    """Send 40 images of one product with eight cameras. Return how many runs each replica had.

    The results must not depend on it.
    """

    def judge(number: int) -> tuple[bool, str, float, float]:
        is_bad = bool(number % 2)
        response = inspect_as_camera(client, BAD if is_bad else GOOD)
        assert response.status_code == 201, response.text
        verdict = response.json()
        return is_bad, verdict["decision"], verdict["score"], verdict["p_value"]

    before = ray.runs()
    with ThreadPoolExecutor(8) as pool:
        results = set(pool.map(judge, range(40)))
    assert {result[:2] for result in results} == {(False, "pass"), (True, "fail")}
    assert len(results) == 2, results
    return Counter({name: count - before[name] for name, count in ray.runs().items()})


def wait_until_both_have_runs(ray: RayService, client: httpx.Client) -> None:
    """Send images until each of two replicas has loaded the graph."""
    give_up = time.monotonic() + DEADLINE_S
    while len(runs := +runs_of_cameras(ray, client)) < 2:
        assert time.monotonic() < give_up, runs


def test_a_product_in_demand_has_no_replica_of_its_own(ray: RayService, client: httpx.Client) -> None:
    # Ray sends a run to a replica that has the graph, as long as that accepts it: with many places, only one gets runs.
    wait_until_both_have_runs(ray, client)
    shares = []
    for _ in range(ROUNDS):
        runs = runs_of_cameras(ray, client)
        shares.append(min(runs.values()) / runs.total())
    assert statistics.median(shares) > LEAST_SHARE, shares


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


def test_a_replica_that_autoscaling_adds_gets_runs_of_a_product_in_demand(
    ray: RayService, client: httpx.Client
) -> None:
    wait_until_both_have_runs(ray, client)
    before = set(ray.runs())
    replicas = {process.pid for process in ray.replicas("Inspector")}
    ray.autoscale(3)
    give_up = time.monotonic() + 3 * DEADLINE_S  # a replica has to start
    shares: list[float] = []
    while len(shares) < ROUNDS or statistics.median(shares[-ROUNDS:]) < LEAST_SHARE:
        runs = runs_of_cameras(ray, client)
        shares.append(sum(count for name, count in runs.items() if name not in before) / runs.total())
        assert time.monotonic() < give_up, shares
    assert {process.pid for process in ray.replicas("Inspector")} > replicas
