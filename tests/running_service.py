"""A running service for tests."""

from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest
import structlog
from fastapi import FastAPI

from service.api.deps import Services
from service.app import Runtime, create_app
from service.deployment.passed_tests import SELF_TESTS
from service.deployment.registry import Registry
from service.server import DrainingServer
from service.serving.admission import Admission
from service.settings import Settings
from service.store.store import Store
from tests.bundles import part

INSPECT = "/v1/products/widget/inspections"


def encode(image: npt.NDArray[np.uint8], suffix: str = ".png") -> bytes:
    """Encode an image; PNG by default, because it is lossless."""
    return cv2.imencode(suffix, image)[1].tobytes()


GOOD = encode(part())
# A white square of 8 x 8 pixels at (20, 30).
BAD = encode(part(spot=(20, 30, 8)))
# A PNG whose header states 60000 x 60000 pixels, with almost no data.
_BOMB_HEADER = b"IHDR" + struct.pack(">II", 60000, 60000) + GOOD[24:29]
BOMB = GOOD[:12] + _BOMB_HEADER + struct.pack(">I", zlib.crc32(_BOMB_HEADER)) + GOOD[33:]


@dataclass(frozen=True)
class HttpService:
    """A service that is used over HTTP only, wherever it runs.

    A test in `tests/service/api` whose parameter `service` has this type runs against every deployment of
    `tests/conformance`, too.

    Attributes:
        client: Sends requests to it, with a key that permits everything if the service needs one.
    """

    client: httpx.Client

    def inspect(self, image: bytes = GOOD, **options: Any) -> httpx.Response:
        """Send an image of the product "widget"."""
        headers = {"content-type": "application/octet-stream"} | options.pop("headers", {})
        return self.client.post(INSPECT, content=image, headers=headers, **options)

    def fetch(self, path: str, **params: Any) -> dict[str, Any]:
        """Return the JSON object at a path, which must be there."""
        response = self.client.get(path, params=params)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found


@dataclass(frozen=True)
class RunningService(HttpService):
    """A service that listens on a real socket, in a thread of this process."""

    app: FastAPI
    settings: Settings
    port: int
    server: DrainingServer

    @property
    def runtime(self) -> Runtime:
        runtime: Runtime = self.app.state.runtime
        return runtime

    @property
    def services(self) -> Services:
        return self.runtime.services

    @property
    def registry(self) -> Registry:
        return self.runtime.registry

    @property
    def store(self) -> Store:
        return self.runtime.store

    @property
    def admission(self) -> Admission:
        return self.runtime.admission

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Hold one place of the admission until the end of the block, as an inspection does."""
        held = AsyncExitStack()
        loop = self.server.servers[0].get_loop()
        turn = self.admission.turn("another client", 10)
        asyncio.run_coroutine_threadsafe(held.enter_async_context(turn), loop).result(10)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(held.aclose(), loop).result(10)

    def connect(self) -> socket.socket:
        """Open a plain connection, to send what an HTTP library would not send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@functools.cache
def shared_self_tests() -> Path:
    """Return a folder for the self-tests that passed in this test run.

    Each takes a process of its own, and most tests use the same tiny bundles.
    """
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return folder


@contextmanager
def run_service(
    models: Path, data: Path, *, ca: ssl.SSLContext | None = None, **settings: Any
) -> Iterator[RunningService]:
    """Serve in a thread until the end of the block.

    `ca` verifies the certificate of the service if the settings name one.
    """
    data.mkdir(parents=True, exist_ok=True)
    if not (data / SELF_TESTS).exists():
        (data / SELF_TESTS).symlink_to(shared_self_tests())
    chosen = Settings(models=models, data=data, **({"provider": "cpu"} | settings))
    app = create_app(chosen)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = DrainingServer(app, chosen)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            scheme = "http" if chosen.tls_certificate is None else "https"
            with httpx.Client(base_url=f"{scheme}://127.0.0.1:{port}", timeout=10, verify=ca or True) as client:
                deadline = time.monotonic() + 30
                while not server.started or app.state.runtime.registry.loading:
                    assert thread.is_alive(), "the service did not start"
                    assert time.monotonic() < deadline, "the service did not become ready"
                    time.sleep(0.005)
                yield RunningService(client, app, chosen, port, server)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> None:
    """Log as the service does; structlog's default takes seconds to render a traceback."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        # Commands print their results to standard output.
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


Serve = Callable[..., AbstractContextManager[RunningService]]


@pytest.fixture
def serve(tiny_models: Path, tmp_path: Path) -> Serve:
    """Start a service for one test: `with serve(queue_limit=1) as service`."""

    def start(*, models: Path = tiny_models, **settings: Any) -> AbstractContextManager[RunningService]:
        return run_service(models, tmp_path / "data", **settings)

    return start


@pytest.fixture(scope="module")
def service(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Run a service that the tests of a module share."""
    with run_service(tiny_models, tmp_path_factory.mktemp("data"), max_body_bytes=100_000) as running:
        yield running
