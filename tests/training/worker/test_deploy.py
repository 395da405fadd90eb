"""The role of a bundle that a job made, by what the product serves."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from plumbline_client import Client, ServiceProblem
from plumbline_client.schemas.training import TrainingJob
from tests.training.worker.test_heartbeat import JOB, client_of, problem
from training.worker.deploy import deploy
from training.worker.stop import StopRequest


class Product:
    """A product of a service, as far as a deployment needs it."""

    def __init__(self, status: str, active: str | None = None, shadow: str | None = None, busy: int = 0) -> None:
        self.status = status
        self.bundles: dict[str, Any] = {"items": [], "active": active, "shadow": shadow}
        self.changes: list[tuple[str, str]] = []
        self.busy = busy

    def client(self) -> Client:
        return client_of(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "GET":
            return httpx.Response(200, json=self.bundles if path.endswith("/bundles") else self._product())
        if self.busy:
            self.busy -= 1
            return problem(409, "bundle-change-under-way")
        self.changes.append((path.rpartition(":")[2], json.loads(request.content)["reason"]))
        return problem(422, "parity-failure")  # the response is not examined further

    def _product(self) -> dict[str, Any]:
        return {"product": "washer", "status": self.status}


def role(product: Product, *, activate: bool = True, own: tuple[str, ...] = ()) -> str | None:
    job = TrainingJob.model_validate(JOB | {"activate": activate})
    return deploy(product.client(), job, "quick", "b", own, StopRequest())


def attempted(product: Product, **options: Any) -> str:
    """Return the change that is made; the service of these tests refuses it, which must not be hidden."""
    with pytest.raises(ServiceProblem, match="parity-failure"):
        role(product, **options)
    ((change, reason),) = product.changes
    assert reason == f"training job {JOB['id']}, queued by Ada (quick)"
    return change


def test_first_bundle_is_activated_if_the_job_says_so() -> None:
    assert attempted(Product("inactive")) == "activate"
    assert role(Product("inactive"), activate=False) is None


@pytest.mark.parametrize("activate", [True, False])
def test_bundle_runs_as_shadow_beside_the_active_one(activate: bool) -> None:
    assert attempted(Product("ready", active="a"), activate=activate) == "shadow"


def test_shadow_of_a_person_is_not_replaced() -> None:
    assert role(Product("ready", active="a", shadow="c")) is None
    assert attempted(Product("ready", active="a", shadow="c"), own=("c",)) == "shadow"


def test_broken_product_waits_for_a_person() -> None:
    assert role(Product("broken")) is None


def test_bundle_that_has_its_role_already_keeps_it() -> None:
    assert role(Product("ready", active="b")) == "active"
    assert role(Product("ready", active="a", shadow="b")) == "shadow"


def test_another_change_of_the_bundles_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.worker.deploy._WAIT_S", 0.01)
    product = Product("ready", active="a", busy=3)
    assert attempted(product) == "shadow"
    assert product.busy == 0
