"""Trials: judge an image as an inspection does, and store nothing."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from service.bundle.arrays import Float32Map
from service.deployment.registry import Registry
from service.inspection.area import BoolMask
from service.inspection.decoding import decoder
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.recipes.quality_check import check_quality
from service.serving.admission import Admission, Disconnected, Turn
from service.serving.image import Image
from service.serving.judging import Judging
from service.serving.loads import BundleLoads
from service.serving.previews import MEDIA_TYPES, Layer, draw_image, draw_overlay, preview_size
from service.serving.records import to_invalid_record, to_record
from service.settings import Settings
from service.store.ids import new_id
from service.store.records import InspectionRecord

MAX_IN_FLIGHT = 8
"""Trials in flight of all clients together. One runs at a time; the others wait."""
_LAST = 2**31
"""Rank of a trial in the queue of the graph: inspections run first."""


@dataclass(frozen=True)
class TriedImage:
    """An image that was judged and not stored.

    Attributes:
        record: What an inspection would have stored. Its id is not that of a stored inspection.
        preview: The image at a limited size; None if it was not requested.
        overlay: The heatmap alone, of the same size; None if it was not requested.
    """

    record: InspectionRecord
    preview: Layer | None
    overlay: Layer | None


class TrialService:
    """Judges images with the bundle and the recipe in force, without a stored record.

    A trial does not count: neither in yields, drift, scores and shifts, nor as an image of a frozen camera. Inspections
    have priority over it.

    Args:
        settings: Deadline, colour map and quality of previews.
        registry: Products and the bundles that serve them.
        judging: Decodes and judges images.
        metrics: Counts trials.
        clock: The time of day.
    """

    def __init__(
        self, settings: Settings, registry: Registry, judging: Judging, metrics: Metrics, clock: Clock
    ) -> None:
        self._registry = registry
        self._judging = judging
        self._metrics = metrics
        self._clock = clock
        self._quality = settings.heatmap_quality
        self._colormap = settings.heatmap_colormap
        self._deadline_s = settings.queue_deadline_s
        self._admission = Admission(MAX_IN_FLIGHT, 1)
        self._loads = BundleLoads(registry, MAX_IN_FLIGHT)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trial")

    def check(self, client: str) -> None:
        """Check that a trial of this client would be admitted now. Use it before the body is received.

        Raises:
            QueueFull: Too many trials are in flight.
        """
        self._admission.check(client)

    async def judge(
        self, product: str, image: Image, max_side: int, client: str, disconnected: Disconnected
    ) -> TriedImage:
        """Judge one image.

        Args:
            product: Name of the product.
            image: The image.
            max_side: Longest side of preview and overlay in pixels; 0 for neither.
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            PlumblineError: The image cannot be used; see `InspectionService.inspect`.
            QueueFull, DeadlineExceeded, ShuttingDown: It cannot be judged now.
            InvalidRequest: The client closed the connection.
        """
        since = time.perf_counter()
        is_hit = await self._loads.wait(product, self._deadline_s, disconnected)
        remaining_s = self._deadline_s - (time.perf_counter() - since)
        async with self._admission.turn(client, remaining_s, disconnected):
            turn = Turn(since, _LAST, is_hit=is_hit)
            return await asyncio.wrap_future(self._thread.submit(self._judge, product, image, max_side, turn))

    def close(self) -> None:
        """Complete the submitted work and stop the thread."""
        self._admission.close()
        self._thread.shutdown()

    def _judge(self, product: str, image: Image, max_side: int, turn: Turn) -> TriedImage:
        with self._registry.lease(product, turn.remaining_s(self._deadline_s), is_hit=turn.is_hit) as active:
            prepared = self._judging.read(active, image, turn)
            reference, now = self._judging.reference(active), self._clock.now()
            is_suspended = self._judging.is_suspended(active, image.part.station)
            anomaly_map: Float32Map | None = None
            judged_cells: BoolMask | None = None
            if violations := check_quality(prepared, active.rules.quality_limits, active.recipe.recipe):
                record = to_invalid_record(
                    new_id(),
                    now,
                    active,
                    prepared,
                    violations,
                    reference,
                    image.data,
                    image.part,
                    is_suspended=is_suspended,
                )
            else:
                judged = self._judging.judge(active, prepared, turn.rank, reference)
                record = to_record(
                    new_id(), now, active, judged, reference, image.data, image.part, is_suspended=is_suspended
                )
                anomaly_map, judged_cells = judged.anomaly_map, judged.judged
            limits = active.inspector.options.limits
        self._metrics.trials.labels(record.product, record.decision).inc()
        if not max_side:
            return TriedImage(record, None, None)
        size = preview_size(record.image_width, record.image_height, max_side)
        rgb = decoder.decode(image.data, limits, prepared.rules)
        preview = draw_image(rgb, size, self._quality)
        overlay = draw_overlay(record, anomaly_map, judged_cells, size, self._colormap)
        return TriedImage(
            record, Layer(MEDIA_TYPES["image"], size, preview), Layer(MEDIA_TYPES["overlay"], size, overlay)
        )
