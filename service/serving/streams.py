"""Streams of images: how many cameras may be connected, and when their streams end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from service.errors import TooManyStreams
from service.monitoring.metrics import Metrics
from service.serving.admission import Admission
from service.serving.inspections import InspectionService
from service.settings import Settings

_REPLACEABLE_AFTER_S = 5.0


class OpenStream:
    """One open stream.

    Args:
        client: Identity of the client.

    Attributes:
        replaced: Set when another stream needs the place of this idle one.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.replaced = asyncio.Event()
        self._active_at = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last frame."""
        return time.monotonic() - self._active_at

    def record_frame(self) -> None:
        """Start the idle time anew."""
        self._active_at = time.monotonic()


class StreamService:
    """Admits camera streams.

    Args:
        inspections: Inspects the images of the streams.
        admission: Admission of inspections; when it drains, streams end.
        settings: The limits of streams.
        metrics: Shows the number of streams.
    """

    def __init__(
        self, inspections: InspectionService, admission: Admission, settings: Settings, metrics: Metrics
    ) -> None:
        self.inspections = inspections
        self._admission = admission
        self._limit = settings.max_streams
        self._limit_per_client = settings.max_streams_per_client
        self._open: dict[OpenStream, None] = {}
        metrics.streams.set_function(lambda: len(self._open))

    @property
    def open_count(self) -> int:
        """Number of open streams."""
        return len(self._open)

    @property
    def draining(self) -> asyncio.Event:
        """Set when the service is stopping and streams should end."""
        return self._admission.draining

    @asynccontextmanager
    async def open(self, product: str, client: str) -> AsyncGenerator[OpenStream]:
        """Count a stream as open until the block ends.

        If a limit is reached, the stream that has been idle for the longest time ends in favour of the new one.

        Args:
            product: Name of the product.
            client: Identity of the client.

        Raises:
            ShuttingDown: The service is stopping.
            StoreUnavailable: Nothing can be stored since the start.
            UnknownProduct, ProductNotReady: No bundle serves this product.
            TooManyStreams: A limit is reached, and no stream is idle.
        """
        self.inspections.require_open()
        await self.inspections.require_ready(product)
        own = [stream for stream in self._open if stream.client == client]
        if len(own) >= self._limit_per_client:
            self._replace_idle(own, TooManyStreams(self._limit_per_client, "PLUMBLINE_MAX_STREAMS_PER_CLIENT"))
        elif len(self._open) >= self._limit:
            self._replace_idle(list(self._open), TooManyStreams(self._limit))
        stream = OpenStream(client)
        self._open[stream] = None
        try:
            yield stream
        finally:
            self._open.pop(stream, None)

    def _replace_idle(self, streams: list[OpenStream], error: TooManyStreams) -> None:
        idlest = max(streams, key=lambda stream: stream.idle_s)
        if idlest.idle_s < _REPLACEABLE_AFTER_S:
            raise error
        del self._open[idlest]
        idlest.replaced.set()
