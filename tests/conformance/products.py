"""Products that tests create at run time, each with two bundles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from service.bundle.bundle import Bundle
from service.deployment.configuration import bundle_loader
from service.deployment.passed_tests import PassedSelfTests
from service.settings import Settings
from tests.access import problem_of
from tests.bundles import SCORES, write_tiny_bundle
from tests.conformance.deployments import SETTINGS, WHO, Deployment, archived
from tests.running_service import GOOD, HttpService, shared_self_tests

_WAIT_S = 60.0


@dataclass(frozen=True)
class ServedProduct:
    """A product.

    Attributes:
        deployment: Where it is served.
        name: Its name, which no other test uses.
        old: Its bundle that is in force when the test begins.
        new: A bundle with twice the scores, which is not uploaded.
    """

    deployment: Deployment
    name: str
    old: Bundle
    new: Bundle

    @property
    def path(self) -> str:
        """The path of the product."""
        return f"/v1/products/{self.name}"

    def inspect(self, service: HttpService, image: bytes = GOOD, **options: Any) -> httpx.Response:
        """Send an image."""
        headers = {"content-type": "image/png"} | options.pop("headers", {})
        return service.client.post(f"{self.path}/inspections", content=image, headers=headers, **options)

    def judge(self, service: HttpService, image: bytes = GOOD, **options: Any) -> dict[str, Any]:
        """Send an image, and again while the product is not ready there. Return the inspection.

        A replica refuses images with `product-not-ready` while it loads a bundle that another one activated.
        """
        deadline = time.monotonic() + _WAIT_S
        while (response := self.inspect(service, image, **options)).status_code == 503:
            assert problem_of(response) == (503, "product-not-ready")
            assert "retry-after" in response.headers
            assert time.monotonic() < deadline, response.text
            time.sleep(0.05)
        assert response.status_code == 201, response.text
        found: dict[str, Any] = response.json()
        return found

    def upload(self, service: HttpService, bundle: Bundle, **params: str) -> httpx.Response:
        """Upload a bundle."""
        headers = {"content-type": "application/zip"}
        return service.client.post(f"{self.path}/bundles", content=archived(bundle), headers=headers, params=params)

    def change(self, service: HttpService, action: str) -> httpx.Response:
        """Change what is in force, for instance with the action `bundles:rollback`."""
        return service.client.post(f"{self.path}/{action}", json=WHO)

    def activate(self, service: HttpService, bundle: Bundle) -> httpx.Response:
        """Activate a bundle."""
        return self.change(service, f"bundles/{bundle.version}:activate")


def make_product(deployment: Deployment, folder: Path, name: str | None = None) -> ServedProduct:
    """Write the bundles of a product. Nothing is sent."""
    name = name or deployment.new_name("part")
    old = write_tiny_bundle(folder, name)
    later = datetime(2026, 2, 1, tzinfo=UTC)
    new = write_tiny_bundle(folder, name, created_at=later, scores=[2 * score for score in SCORES])
    _record_self_tests([old, new])
    return ServedProduct(deployment, name, old, new)


def serve_product(deployment: Deployment, folder: Path) -> ServedProduct:
    """Create a product, and wait until each replica judges its images."""
    product = make_product(deployment, folder)
    uploaded = product.upload(deployment.service, product.old, create_product="true")
    assert uploaded.status_code == 201, uploaded.text
    activated = product.activate(deployment.service, product.old)
    assert activated.status_code == 200, activated.text
    for replica in deployment.replicas:
        product.judge(replica)
    return product


def _record_self_tests(bundles: Sequence[Bundle]) -> None:
    """Record that the bundles passed: each self-test takes a process, and that of "widget" shows that it works."""
    passed = PassedSelfTests(shared_self_tests())
    loader = bundle_loader(Settings(provider="cpu", threads=int(SETTINGS["threads"])))
    for bundle in bundles:
        passed.add(loader.self_test_facts(bundle))
