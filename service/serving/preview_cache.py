"""A cache of encoded previews, bounded in bytes. What several requests need at the same time is drawn once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.errors import InvalidRequest, QueueFull
from service.serving.admission import Disconnected

Key = tuple[str, str, int]
"""Inspection, layer and longest side."""
_OVERHEAD_BYTES = 512


@dataclass(eq=False)
class _Drawing:
    """A preview that is being drawn.

    Attributes:
        task: Draws it.
        waiting: Number of requests that wait for it.
    """

    task: asyncio.Future[bytes]
    waiting: int = 0


class PreviewCache:
    """Keeps the previews that were used most recently. It must be used from the event loop only.

    Args:
        limit_bytes: Most bytes that are kept.

    Attributes:
        used_bytes: Bytes that are kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: OrderedDict[Key, bytes] = OrderedDict()
        self._drawings: dict[Key, _Drawing] = {}

    async def get(
        self, key: Key, draw: Callable[[], Awaitable[bytes]], disconnected: Disconnected | None = None
    ) -> bytes:
        """Return a preview: from the cache, from a drawing that is in progress, or drawn now.

        A drawing is cancelled when the clients of all requests for it have closed their connections.

        Args:
            key: Identity of the preview.
            draw: Draws it.
            disconnected: Ends the wait when the client closes its connection.

        Raises:
            InvalidRequest: The client closed the connection.
            PlumblineError: It cannot be drawn.
        """
        while True:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
            drawing = self._drawings.get(key)
            is_own = drawing is None
            if drawing is None:
                drawing = self._start(key, draw)
            try:
                return await self._wait(key, drawing, disconnected)
            except QueueFull:
                # Another client had its share; this one may still have a place.
                if is_own:
                    raise

    def _start(self, key: Key, draw: Callable[[], Awaitable[bytes]]) -> _Drawing:
        drawing = self._drawings[key] = _Drawing(asyncio.ensure_future(draw()))

        def finish(task: asyncio.Future[bytes]) -> None:
            self._forget(key, drawing)
            if not task.cancelled() and task.exception() is None:
                self._keep(key, task.result())

        drawing.task.add_done_callback(finish)
        return drawing

    def _forget(self, key: Key, drawing: _Drawing) -> None:
        if self._drawings.get(key) is drawing:
            del self._drawings[key]

    async def _wait(self, key: Key, drawing: _Drawing, disconnected: Disconnected | None) -> bytes:
        drawing.waiting += 1
        watcher = None if disconnected is None else asyncio.ensure_future(disconnected())
        try:
            awaited: set[asyncio.Future[bytes] | asyncio.Future[None]] = {drawing.task}
            if watcher is not None:
                awaited.add(watcher)
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if not drawing.task.done():
                raise InvalidRequest("The client closed the connection while the preview was drawn.")
            return drawing.task.result()
        finally:
            drawing.waiting -= 1
            if watcher is not None:
                watcher.cancel()
            if drawing.waiting == 0 and not drawing.task.done():
                self._forget(key, drawing)
                drawing.task.cancel()

    def _keep(self, key: Key, drawn: bytes) -> None:
        self._kept[key] = drawn
        self.used_bytes += len(drawn) + _OVERHEAD_BYTES
        while self.used_bytes > self._limit_bytes and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self.used_bytes -= len(dropped) + _OVERHEAD_BYTES
