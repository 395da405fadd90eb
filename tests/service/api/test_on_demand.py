"""Products whose bundles are loaded on demand, over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bundle.bundle import Bundle
from service.deployment.memory_limits import memory_bytes
from service.deployment.repository import BundleLoader
from service.inspection.inspector import Inspector
from tests.bundles import write_tiny_bundle
from tests.problems import assert_problem
from tests.running_service import BAD, GOOD, RunningService, Serve

TIMEOUT_S = 20.0
IMAGE = {"content-type": "image/png"}
NAMES = ("bolt", "nut", "rivet")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    models = tmp_path_factory.mktemp("models")
    return {name: write_tiny_bundle(models, name) for name in NAMES}


@pytest.fixture(scope="module")
def models(bundles: dict[str, Bundle]) -> Path:
    return bundles["bolt"].path.parent.parent


@pytest.fixture(scope="module")
def size(bundles: dict[str, Bundle]) -> int:
    """Memory of one bundle, with a little space beside it."""
    return memory_bytes(bundles["bolt"].manifest) + 2**16


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let the first load of `nut` hang until the event is set."""
    released, load = threading.Event(), BundleLoader.load

    def wait_and_load(loader: BundleLoader, path: Path, *arguments: Any, **options: Any) -> Inspector:
        if path.parent.name == "nut":
            assert released.wait(TIMEOUT_S)
        return load(loader, path, *arguments, **options)

    monkeypatch.setattr(BundleLoader, "load", wait_and_load)
    yield released
    released.set()


def inspect(service: RunningService, product: str, image: bytes = GOOD) -> httpx.Response:
    return service.client.post(f"/v1/products/{product}/inspections", content=image, headers=IMAGE)


def memory(service: RunningService) -> dict[str, str]:
    return {item["product"]: item["memory"] for item in service.client.get("/v1/products").json()["items"]}


def test_every_product_is_inspected_although_only_one_bundle_fits(
    serve: Serve, models: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.deployment.bundle_memory.stay_s", lambda _: 0.0)
    with serve(models=models, bundle_memory_bytes=size) as service:
        ready = service.client.get("/health/ready").json()
        assert (ready["status"], ready["products"]) == ("ready", list(NAMES))
        stored = [inspect(service, product, BAD).json() for product in NAMES * 2]
        assert {item["decision"] for item in stored} == {"fail"}
        assert memory(service) == {"bolt": "on-demand", "nut": "on-demand", "rivet": "loaded"}
        assert {item["status"] for item in service.client.get("/v1/products").json()["items"]} == {"ready"}
        assert service.client.get("/v1/products/bolt").json()["provider"] == "cpu", "it was loaded before"
        assert service.client.get("/v1/system").status_code == 200
        replay = service.client.post(f"/v1/inspections/{stored[0]['id']}:replay").json()
        assert replay["summary"].endswith("bit-identical.")
        exposed = service.client.get("/metrics").text
        # One of the products was loaded at the start, which may be the first one.
        hits = int('inspection_bundle_leases_total{result="hit"} 1.0' in exposed)
        assert f'inspection_bundle_leases_total{{result="hit"}} {hits}.0' in exposed
        assert f'inspection_bundle_leases_total{{result="miss"}} {6 - hits}.0' in exposed
        assert "inspection_bundles_loaded 1.0" in exposed


def test_pinned_and_required_products_stay_in_memory(serve: Serve, models: Path, size: int) -> None:
    with serve(models=models, bundle_memory_bytes=3 * size, pinned_products="bolt", required_products="nut") as service:
        assert memory(service) == {"bolt": "pinned", "nut": "pinned", "rivet": "on-demand"}


def test_products_stay_in_memory_by_default(serve: Serve, models: Path) -> None:
    with serve(models=models) as service:
        assert memory(service) == dict.fromkeys(NAMES, "pinned")


def test_product_that_was_not_loaded_yet_is_described_without_a_provider(serve: Serve, models: Path, size: int) -> None:
    with serve(models=models, bundle_memory_bytes=3 * size, pinned_products="bolt") as service:
        nut = service.client.get("/v1/products/nut").json()
        assert (nut["status"], nut["provider"]) == ("ready", None)
        assert nut["calibration"]["images"] == 99
        assert nut["recipe"]["revision"] == 1
        served = {item["product"]: item for item in service.client.get("/v1/system").json()["products"]}
        assert (served["nut"]["provider"], served["nut"]["parity"]["self_test"]) == (None, None)
        assert served["bolt"]["parity"]["self_test"] is not None


def test_requests_that_wait_for_a_bundle_do_not_delay_other_products(
    serve: Serve, models: Path, size: int, hanging: threading.Event
) -> None:
    with (
        serve(models=models, bundle_memory_bytes=3 * size, pinned_products="bolt") as service,
        ThreadPoolExecutor(16) as clients,
    ):
        waiting = [clients.submit(inspect, service, "nut") for _ in range(16)]
        assert {inspect(service, "bolt").status_code for _ in range(10)} == {201}
        assert not any(response.done() for response in waiting)
        hanging.set()
        assert {response.result(TIMEOUT_S).status_code for response in waiting} == {201}


def test_bundle_that_is_not_loaded_in_time_is_loaded_for_the_next_request(
    serve: Serve, models: Path, size: int, hanging: threading.Event
) -> None:
    with serve(models=models, bundle_memory_bytes=3 * size, pinned_products="bolt", queue_deadline_s=0.2) as service:
        for path in ("inspections", "inspections:try"):
            response = service.client.post(f"/v1/products/nut/{path}", content=GOOD, headers=IMAGE)
            problem = assert_problem(response, 503, "product-not-ready")
            assert "is being loaded" in problem["detail"]
            assert float(response.headers["retry-after"]) >= 1
        load = service.registry.request("nut")
        assert load is not None
        hanging.set()
        assert load.result(TIMEOUT_S) is None
        assert inspect(service, "nut").status_code == 201


def test_more_requests_than_the_limit_do_not_wait_for_a_bundle(
    serve: Serve, models: Path, size: int, hanging: threading.Event
) -> None:
    settings: dict[str, Any] = {"bundle_memory_bytes": 3 * size, "pinned_products": "bolt", "queue_limit": 2}
    with serve(models=models, **settings) as service, ThreadPoolExecutor(8) as clients:
        waiting = [clients.submit(inspect, service, "nut") for _ in range(8)]
        while sum(response.done() for response in waiting) < 6:
            pass
        hanging.set()
        codes = sorted(response.result(TIMEOUT_S).status_code for response in waiting)
        assert codes == [201] * 2 + [503] * 6


def test_bundle_that_was_damaged_is_reported_for_its_product(serve: Serve, tmp_path: Path) -> None:
    damaged = {name: write_tiny_bundle(tmp_path / "models", name) for name in NAMES}
    size = memory_bytes(damaged["bolt"].manifest) + 2**16
    with serve(models=tmp_path / "models", bundle_memory_bytes=3 * size, pinned_products="bolt") as service:
        (damaged["nut"].path / "model.onnx").write_bytes(b"bit rot")
        response = inspect(service, "nut")
        problem = assert_problem(response, 503, "product-not-ready")
        assert "model.onnx is not the file" in problem["detail"]
        assert "retry-after" not in response.headers
        nut = service.client.get("/v1/products/nut").json()
        assert nut["status"] == "broken"
        assert nut["broken_bundles"][0]["type"] == "bundle-integrity"
        ready = service.client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert inspect(service, "bolt").status_code == 201
        assert inspect(service, "rivet").status_code == 201
