"""A running service for the tests of the service's rooms."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest
import structlog
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.serving.inspections import InspectionLine
from service.settings import Settings
from tests.bundles import part

INSPECT = "/v1/products/widget/inspections"


def encode(image: npt.NDArray[np.uint8], suffix: str = ".png") -> bytes:
    """An encoded image; PNG by default, because its pixels come back as they were."""
    return cv2.imencode(suffix, image)[1].tobytes()


GOOD = encode(part())
# A white square of 8 x 8 pixels at (20, 30).
BAD = encode(part(spot=(20, 30, 8)))
# A PNG that says 60000 x 60000 and holds next to nothing.
_BOMB_HEADER = b"IHDR" + struct.pack(">II", 60000, 60000) + GOOD[24:29]
BOMB = GOOD[:12] + _BOMB_HEADER + struct.pack(">I", zlib.crc32(_BOMB_HEADER)) + GOOD[33:]


@dataclass(frozen=True)
class RunningService:
    """A service that listens on a real socket, in a thread of this process."""

    app: FastAPI
    settings: Settings
    client: httpx.Client
    port: int

    @property
    def line(self) -> InspectionLine:
        line: InspectionLine = self.app.state.line
        return line

    def inspect(self, image: bytes = GOOD, **options: Any) -> httpx.Response:
        headers = {"content-type": "application/octet-stream"} | options.pop("headers", {})
        return self.client.post(INSPECT, content=image, headers=headers, **options)

    def connect(self) -> socket.socket:
        """A bare connection, for what no HTTP library would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@contextmanager
def run_service(models: Path, data: Path, **settings: Any) -> Iterator[RunningService]:
    """Serve in a thread until the end of the block."""
    chosen = Settings(models=models, data=data, **({"provider": "cpu"} | settings))
    app = create_app(chosen)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                deadline = time.monotonic() + 30
                while not server.started or app.state.line.registry.loading:
                    assert thread.is_alive(), "the service did not start"
                    assert time.monotonic() < deadline, "the service did not get ready"
                    time.sleep(0.005)
                yield RunningService(app, chosen, client, port)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> None:
    """Log lines as the service writes them; the library's default renders tracebacks for seconds."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    )


Serve = Callable[..., AbstractContextManager[RunningService]]


@pytest.fixture
def serve(tiny_models: Path, tmp_path: Path) -> Serve:
    """Start a service of one's own: `with serve(queue_limit=1) as service`."""

    def start(*, models: Path = tiny_models, **settings: Any) -> AbstractContextManager[RunningService]:
        return run_service(models, tmp_path / "data", **settings)

    return start


@pytest.fixture(scope="module")
def service(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that a module's tests share."""
    with run_service(tiny_models, tmp_path_factory.mktemp("data"), max_body_bytes=100_000) as running:
        yield running
