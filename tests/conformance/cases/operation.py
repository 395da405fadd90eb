"""What operates a service reads: health, metrics, the OpenAPI document, pages and limits."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conformance.deployments import Deployment
from tests.problems import assert_problem
from tests.running_service import BOMB, GOOD

OPENAPI = Path(__file__).parent.parent.parent.parent / "openapi.json"


def test_every_replica_is_alive_and_ready(deployment: Deployment) -> None:
    for replica in [deployment.service, *deployment.replicas]:
        assert replica.fetch("/health/live") == {"status": "alive"}
        ready = replica.fetch("/health/ready")
        assert (ready["status"], ready["access"], ready["broken_bundles"]) == ("ready", "required", [])
        assert "widget" in ready["products"]


def test_openapi_document_is_the_published_one(deployment: Deployment) -> None:
    published = json.loads(OPENAPI.read_text(encoding="utf-8"))
    for replica in deployment.replicas:
        assert replica.fetch("/openapi.json") == published


def test_metrics_have_the_inspections_of_a_replica(deployment: Deployment) -> None:
    for replica in deployment.replicas:
        assert replica.inspect(GOOD).status_code == 201
    for url in deployment.addresses.metrics:
        response = httpx.get(f"{url}/metrics", headers=deployment.headers)
        assert response.status_code == 200, response.text
        families = {family.name: family for family in text_string_to_metric_families(response.text)}
        ready = [sample.value for sample in families["inspection_ready"].samples]
        assert ready == [1.0]
        served = {sample.labels["product"] for sample in families["inspection_model_info"].samples}
        assert "widget" in served


def test_request_beyond_a_limit_is_refused_at_every_replica(deployment: Deployment) -> None:
    for replica in [deployment.service, *deployment.replicas]:
        assert_problem(replica.inspect(b"x" * 100_001), 413, "body-too-large")
        assert_problem(replica.inspect(BOMB), 413, "too-many-pixels")
        assert_problem(replica.inspect(b""), 422, "invalid-request")
        assert_problem(replica.inspect(GOOD[:80]), 422, "corrupt-image")
        assert_problem(replica.inspect(b"GIF89a and more"), 415, "not-an-image")
        assert replica.inspect(GOOD).status_code == 201


@pytest.mark.parametrize("path", ["/live", "/inspections", "/products", "/review", "/system", "/products/widget"])
def test_page_is_shown_at_every_replica(deployment: Deployment, path: str) -> None:
    for replica in deployment.replicas:
        page = replica.client.get(path, headers={"accept": "text/html"})
        assert page.status_code == 200, page.text
        assert page.headers["content-type"].startswith("text/html")


def test_request_id_is_returned_and_stored(deployment: Deployment) -> None:
    for replica in deployment.replicas:
        name = deployment.new_name("request")
        response = replica.inspect(headers={"x-request-id": name})
        assert response.headers["x-request-id"] == name
        assert response.json()["request_id"] == name
