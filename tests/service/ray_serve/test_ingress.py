"""The service as Ray's proxy needs it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from starlette.types import Message

from service.app import create_app
from service.ray_serve.ingress import BehindRay
from service.settings import Settings


def test_a_replica_has_started_when_its_bundles_are_loaded(tiny_models: Path, tmp_path: Path) -> None:
    app = create_app(Settings(models=tiny_models, data=tmp_path / "data", provider="cpu", threads=1))
    behind = BehindRay(app, app)

    async def use() -> httpx.Response:
        received: asyncio.Queue[Message] = asyncio.Queue()
        sent: asyncio.Queue[Message] = asyncio.Queue()
        scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        lifespan = asyncio.create_task(behind(scope, received.get, sent.put))
        await received.put({"type": "lifespan.startup"})
        assert (await sent.get())["type"] == "lifespan.startup.complete"
        assert not app.state.runtime.registry.loading
        transport = httpx.ASGITransport(behind)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            response = await client.get("/health/ready", headers={"x-request-id": "line-3"})
        await received.put({"type": "lifespan.shutdown"})
        assert (await sent.get())["type"] == "lifespan.shutdown.complete"
        await lifespan
        return response

    response = asyncio.run(use())
    assert (response.status_code, response.json()["products"]) == (200, ["widget"])
    assert "x-request-id" not in response.headers  # Ray's proxy adds it
    assert response.headers["x-content-type-options"] == "nosniff"
