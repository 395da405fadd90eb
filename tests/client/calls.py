"""Calls of the sync and the async client, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from plumbline_client import (
    AsyncClient,
    Client,
)

Handler = Callable[[httpx.Request], httpx.Response]
URL = "http://plumbline"


def call(is_async: bool, url: str, method: str, *arguments: Any, handler: Handler | None = None, **options: Any) -> Any:
    """Call a method of a new client; return its result."""
    transport: dict[str, Any] = {"transport": httpx.MockTransport(handler)} if handler else {}
    if not is_async:
        with Client(url, **transport, **options) as plumbline:
            return getattr(plumbline, method)(*arguments)

    async def run() -> Any:
        async with AsyncClient(url, **transport, **options) as plumbline:
            return await getattr(plumbline, method)(*arguments)

    return asyncio.run(run())
