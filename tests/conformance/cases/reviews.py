"""Labels and training jobs, shared by all replicas."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import httpx
import numpy as np

from tests.access import problem_of
from tests.bundles import part
from tests.conformance.deployments import Deployment
from tests.conformance.products import ServedProduct
from tests.running_service import BAD, HttpService, encode


def test_label_is_read_changed_and_withdrawn_at_every_replica(
    deployment: Deployment, shared_product: ServedProduct
) -> None:
    path = f"/v1/inspections/{shared_product.judge(deployment.service, BAD)['id']}"
    for number, replica in enumerate(deployment.replicas):
        label = "good" if number % 2 else "defect"
        labelled = replica.client.post(f"{path}:review", json={"label": label})
        assert labelled.status_code == 201, labelled.text
        for other in deployment.replicas:
            assert other.fetch(path)["label"] == label
            states = [item["state"] for item in other.fetch(f"{path}/reviews")["items"]]
            assert states == ["current"] + ["replaced"] * number
    newest = deployment.replicas[-1].fetch(f"{path}/reviews")["items"][0]["id"]
    for replica in deployment.replicas:
        undone = replica.client.post(f"{path}:undo-review", json={"review_id": newest})
        assert undone.status_code == 200, undone.text
        assert undone.json()["items"][0]["state"] == "withdrawn"


def test_queue_and_agreement_are_those_of_all_replicas(deployment: Deployment, shared_product: ServedProduct) -> None:
    ids = {shared_product.judge(replica, BAD)["id"] for replica in deployment.replicas}
    for replica in deployment.replicas:
        queue = replica.fetch("/v1/reviews:queue", product=shared_product.name, fail_sample=100, limit=100)
        assert {item["inspection_id"] for item in queue["items"]} >= ids
    for replica, identity in zip(deployment.replicas, sorted(ids), strict=True):
        assert replica.client.post(f"/v1/inspections/{identity}:review", json={"label": "defect"}).status_code == 201
    found = [replica.fetch("/v1/reviews:agreement", product=shared_product.name) for replica in deployment.replicas]
    assert all(one == found[0] for one in found)
    listed = deployment.service.fetch("/v1/inspections", product=shared_product.name, label="defect")["items"]
    assert {item["id"] for item in listed} >= ids


def queue(product: ServedProduct, service: HttpService) -> dict[str, Any]:
    random = np.random.default_rng(0)
    images = [encode(part() + random.integers(0, 3, (64, 64, 3), np.uint8)) for _ in range(8)]
    files = [("image", (f"{number}.png", data, "image/png")) for number, data in enumerate(images)]
    response = service.client.post(f"{product.path}/good-images", files=files)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def test_training_job_is_queued_claimed_once_reported_and_finished(
    deployment: Deployment, shared_product: ServedProduct
) -> None:
    jobs = f"{shared_product.path}/training-jobs"
    job = queue(shared_product, deployment.replicas[0])
    path = f"{jobs}/{job['id']}"
    for replica in deployment.replicas:
        assert replica.fetch(path) == job
        assert replica.fetch(jobs)["items"][0] == job
        assert len(replica.fetch(f"{path}/images")["items"]) == 8
        assert replica.client.get(f"{path}/images/8").headers["content-type"] == "image/png"

    def claim(service: HttpService) -> dict[str, Any]:
        response = service.client.post("/v1/training-jobs:claim", json={"worker": "pc-7"})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    with ThreadPoolExecutor(6) as pool:
        claims = list(pool.map(claim, islice(cycle(deployment.replicas), 6)))
    (claimed,) = (one for one in claims if one["job"] is not None)
    assert claimed["job"]["id"] == job["id"]

    def act(service: HttpService, action: str, **body: Any) -> httpx.Response:
        return service.client.post(f"{path}:{action}", json={"claim": claimed["claim"]} | body)

    for replica in deployment.replicas:
        told = act(replica, "report", stage="train", done=1, total=2, seconds=0.5)
        assert told.status_code == 200, told.text
        assert {other.fetch(path)["stage"] for other in deployment.replicas} == {"train"}
    ended = act(deployment.replicas[-1], "finish", outcome="succeeded")
    assert (ended.status_code, ended.json()["state"]) == (200, "succeeded")
    for replica in deployment.replicas:
        assert replica.fetch(path)["state"] == "succeeded"
        assert problem_of(act(replica, "finish", outcome="succeeded")) == (409, "training-job-not-held")


def test_training_job_is_cancelled_at_another_replica(deployment: Deployment, shared_product: ServedProduct) -> None:
    path = f"{shared_product.path}/training-jobs/{queue(shared_product, deployment.replicas[0])['id']}"
    cancelled = deployment.replicas[-1].client.post(f"{path}:cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert {replica.fetch(path)["state"] for replica in deployment.replicas} == {"cancelled"}
