"""A service with keys, an account and two products, which all attacks are aimed at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.access import bearer, make_account, make_key
from tests.bundles import write_tiny_bundle
from tests.running_service import GOOD, RunningService, run_service

PNG = {"content-type": "image/png"}
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


@dataclass(frozen=True)
class Target:
    """The service, headers by name of a key, and an inspection of the product `widget` at the station `B2`."""

    service: RunningService
    keys: dict[str, dict[str, str]]
    foreign: str
    client: httpx.Client

    def raw(self, request: bytes, timeout_s: float = 5.0) -> bytes:
        """Send bytes and return everything that the service sends until it closes the connection."""
        received = b""
        with self.service.connect() as connection:
            connection.settimeout(timeout_s)
            connection.sendall(request)
            while piece := connection.recv(65536):
                received += piece
        return received

    def statuses(self, request: bytes) -> list[int]:
        return [int(status) for status in _STATUS.findall(self.raw(request))]


@pytest.fixture(scope="package")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    models = tmp_path_factory.mktemp("models")
    for product in ("widget", "gadget"):
        write_tiny_bundle(models, product)
    with run_service(models, tmp_path_factory.mktemp("attacked") / "data", metrics_open=False) as service:
        foreign = service.inspect(GOOD, params={"station": "B2"}).json()["id"]
        engine = service.store.engine
        made = {
            "inspect": make_key(engine, "inspect"),
            "engineer": make_key(engine, "engineer", "inspect"),
            "admin": make_key(engine, "admin"),
            "gadget": make_key(engine, "inspect", "review", "engineer", products=["gadget"]),
            "reviewer": make_key(engine, "review"),
            "station": make_key(engine, "inspect", "review", stations=["A1"]),
        }
        for name in ("kim", "ann"):
            make_account(engine, name, "admin")
        service.app.state.access._require("test")
        with httpx.Client(base_url=service.client.base_url, timeout=20) as client:
            yield Target(service, {name: bearer(key) for name, key in made.items()}, foreign, client)


@pytest.fixture(autouse=True)
def without_cookies(target: Target) -> Iterator[None]:
    yield
    target.client.cookies.clear()
