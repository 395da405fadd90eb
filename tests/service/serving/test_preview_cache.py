"""The cache of previews: one drawing for several requests, its bound, failures and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from service.errors import InvalidRequest, QueueFull
from service.serving.preview_cache import PreviewCache

Test = Callable[[], Coroutine[Any, Any, None]]


def on_event_loop(test: Test) -> Callable[[], None]:
    """Run a test on an event loop."""

    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


KEY = ("an inspection", "image", 1024)


@on_event_loop
async def test_failure_is_not_kept_and_reaches_everyone_who_waits() -> None:
    cache = PreviewCache(10_000)
    begin = asyncio.Event()

    async def fail() -> bytes:
        await begin.wait()
        raise ValueError

    waiting = [asyncio.ensure_future(cache.get(KEY, fail)) for _ in range(3)]
    await asyncio.sleep(0)
    begin.set()
    assert [type(found) for found in await asyncio.gather(*waiting, return_exceptions=True)] == [ValueError] * 3
    assert await cache.get(KEY, _drawing(b"later")) == b"later"


@on_event_loop
async def test_refusal_of_another_client_is_not_that_of_this_one() -> None:
    cache = PreviewCache(10_000)
    begin = asyncio.Event()

    async def refuse() -> bytes:
        await begin.wait()
        raise QueueFull(1, 1.0)

    first = asyncio.ensure_future(cache.get(KEY, refuse))
    second = asyncio.ensure_future(cache.get(KEY, _drawing(b"drawn")))
    await asyncio.sleep(0)
    begin.set()
    with pytest.raises(QueueFull):
        await first
    assert await second == b"drawn"


@on_event_loop
async def test_drawing_continues_while_one_client_waits() -> None:
    cache = PreviewCache(10_000)
    begin, gone = asyncio.Event(), asyncio.Event()

    async def draw() -> bytes:
        await begin.wait()
        return b"drawn"

    async def disconnected() -> None:
        await gone.wait()

    leaving = asyncio.ensure_future(cache.get(KEY, draw, disconnected))
    staying = asyncio.ensure_future(cache.get(KEY, draw))
    await asyncio.sleep(0)
    gone.set()
    with pytest.raises(InvalidRequest):
        await leaving
    begin.set()
    assert await staying == b"drawn"


@on_event_loop
async def test_request_after_a_cancelled_drawing_draws_again() -> None:
    cache = PreviewCache(10_000)

    async def gone() -> None:
        return

    async def hang() -> bytes:
        await asyncio.Event().wait()
        return b""

    with pytest.raises(InvalidRequest):
        await cache.get(KEY, hang, gone)
    assert await cache.get(KEY, _drawing(b"again")) == b"again"


@on_event_loop
async def test_preview_larger_than_the_cache_is_returned_and_not_kept() -> None:
    cache = PreviewCache(0)
    assert await cache.get(KEY, _drawing(b"drawn")) == b"drawn"
    assert cache.used_bytes == 0


def _drawing(content: bytes) -> Callable[[], Awaitable[bytes]]:
    async def draw() -> bytes:
        return content

    return draw
