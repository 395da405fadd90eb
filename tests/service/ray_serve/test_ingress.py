"""The service as Ray's proxy needs it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.types import Message

from service.app import create_app
from service.bundle.bundle import Bundle
from service.inspection.runtime.engine import Engine, open_here
from service.inspection.runtime.session import Session, SessionOptions
from service.ray_serve.ingress import BehindRay
from service.settings import Settings


@asynccontextmanager
async def started(app: BehindRay) -> AsyncIterator[httpx.AsyncClient]:
    """Start an application, yield a client of it, and stop it at the end of the block."""
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    lifespan = asyncio.create_task(app(scope, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert (await asyncio.wait_for(sent.get(), 20))["type"] == "lifespan.startup.complete"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client
    await received.put({"type": "lifespan.shutdown"})
    assert (await sent.get())["type"] == "lifespan.shutdown.complete"
    await lifespan


def test_a_replica_has_started_when_its_bundles_are_loaded(tiny_models: Path, tmp_path: Path) -> None:
    app = create_app(Settings(models=tiny_models, data=tmp_path / "data", provider="cpu", threads=1))
    behind = BehindRay(app, app, 60.0)

    async def use() -> httpx.Response:
        async with started(behind) as client:
            assert not app.state.runtime.registry.loading
            return await client.get("/health/ready", headers={"x-request-id": "line-3"})

    response = asyncio.run(use())
    assert (response.status_code, response.json()["products"]) == (200, ["widget"])
    assert "x-request-id" not in response.headers  # Ray's proxy adds it
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_replica_whose_bundles_take_too_long_starts_and_states_the_reason(tiny_models: Path, tmp_path: Path) -> None:
    may_open = threading.Event()

    def open_late(bundle: Bundle, options: SessionOptions) -> Session:
        assert may_open.wait(30)
        return open_here(bundle, options)

    settings = Settings(models=tiny_models, data=tmp_path / "data", provider="cpu", threads=1)
    app = create_app(settings, Engine(open_late, 1))
    behind = BehindRay(app, app, 0.1)

    async def use() -> httpx.Response:
        async with started(behind) as client:
            response = await client.get("/health/ready")
            may_open.set()
            return response

    response = asyncio.run(use())
    assert response.status_code == 503
    assert response.json()["status"] == "loading"
    assert response.json()["reasons"] == ["Bundles are being loaded."]
