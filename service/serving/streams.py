"""Streams of images: how many cameras may be connected, and when their streams end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from service.errors import QueueFull, ShuttingDown, TooManyStreams
from service.monitoring.metrics import Metrics
from service.serving.admission import Admission
from service.serving.inspections import InspectionService


class StreamService:
    """Admits camera streams.

    Args:
        inspections: Inspects the images of the streams.
        admission: Admission of inspections; when it drains, streams end.
        limit: Maximum number of streams at a time.
        metrics: Shows the number of streams.
    """

    def __init__(self, inspections: InspectionService, admission: Admission, limit: int, metrics: Metrics) -> None:
        self.inspections = inspections
        self._admission = admission
        self._streams = Admission(limit)
        metrics.streams.set_function(lambda: self._streams.depth)

    @property
    def open_count(self) -> int:
        """Number of open streams."""
        return self._streams.depth

    @property
    def draining(self) -> asyncio.Event:
        """Set when the service is stopping and streams should end."""
        return self._admission.draining

    @contextmanager
    def open(self, product: str) -> Iterator[None]:
        """Count a stream as open until the block ends.

        Args:
            product: Name of the product.

        Raises:
            ShuttingDown: The service is stopping.
            UnknownProduct, ProductNotReady: No bundle serves this product.
            TooManyStreams: The limit is reached.
        """
        if self._admission.is_draining:
            raise ShuttingDown()
        self.inspections.require_ready(product)
        with ExitStack() as entered:
            try:
                entered.enter_context(self._streams.enter())
            except QueueFull as error:
                raise TooManyStreams(self._streams.limit) from error
            yield
