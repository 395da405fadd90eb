"""Artefacts of stored inspections: the image, the anomaly map and the heatmap drawn from both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.bundle.arrays import Float32Map, UInt8Image
from service.deployment.stored_image import decode_stored
from service.inspection import heatmap
from service.inspection.area import BoolMask, judged_cells
from service.inspection.heatmap import HEATMAP_MEDIA_TYPES, AnomalyMask, HeatmapScale
from service.inspection.runtime.threads import cpu_quota
from service.monitoring.metrics import Metrics
from service.serving.admission import Disconnected
from service.serving.drawing import Deadline, DrawingThreads
from service.serving.records import to_region
from service.settings import Settings
from service.store.artefacts.stored_file import StoredFile
from service.store.errors import NotJudged
from service.store.recipes import get_recipe
from service.store.records import InspectionRecord
from service.store.store import Store

READER_THREADS = 4
ResultT = TypeVar("ResultT")


class ArtefactService:
    """Reads images and maps and draws heatmaps.

    Drawing has an admission of its own, so that heatmaps requested later neither take the place of inspections nor use
    unbounded memory. As for inspections, clients take turns.

    Args:
        settings: Format and quality of heatmaps, and the limit of requests in flight.
        store: The stored inspections.
        metrics: Records the time that drawing takes.
    """

    def __init__(self, settings: Settings, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._heatmap_quality = settings.heatmap_quality
        self._colormap = settings.heatmap_colormap
        self._drawings = DrawingThreads("drawing", cpu_quota(), settings.queue_limit, settings.queue_deadline_s)
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="artefacts")
        self.heatmap_media_types = tuple(dict.fromkeys((settings.heatmap_media_type, *HEATMAP_MEDIA_TYPES)))
        """Media types of heatmaps, the configured one first."""

    async def draw_heatmap(
        self,
        record: InspectionRecord,
        media_type: str,
        client: str,
        disconnected: Disconnected | None = None,
        *,
        legend: bool = False,
    ) -> bytes:
        """Draw the heatmap of a stored inspection. As for an inspection, there is a deadline.

        Scale and area are those that were in force when the image was judged.

        Args:
            record: The inspection.
            media_type: One of `heatmap_media_types`.
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.
            legend: Whether decision, score, thresholds and colour scale are drawn below the image.

        Returns:
            The encoded heatmap; for an invalid image, the image without an overlay.

        Raises:
            ArtefactGone: The image or the map is no longer stored.
            StoredImageUnreadable: The image cannot be decoded.
            StoreUnavailable: A file or the recipe cannot be read.
            QueueFull, DeadlineExceeded: Too many artefacts are being drawn, or drawing takes too long.
            InvalidRequest: The client closed the connection while the request waited.
        """
        async with self._drawings.turn(record.id, client, disconnected) as deadline:
            return await self._draw_until(deadline, record, media_type, legend=legend)

    async def draw_admitted(self, record: InspectionRecord, media_type: str, *, legend: bool = False) -> bytes:
        """Draw the heatmap for a request that holds an admission of an inspection already.

        Args:
            record: The inspection.
            media_type: One of `heatmap_media_types`.
            legend: As for `draw_heatmap`.

        Raises:
            ArtefactGone: The image or the map is no longer stored.
            StoreUnavailable: A file or the recipe cannot be read.
            DeadlineExceeded: Drawing takes too long. The inspection stays stored.
        """
        return await self._draw_until(self._drawings.deadline(record.id), record, media_type, legend=legend)

    async def draw_mask(self, record: InspectionRecord, colour: str) -> AnomalyMask:
        """Draw the regions as a mask, for a request that holds an admission of an inspection already.

        Args:
            record: The inspection.
            colour: Colour of the regions, `#RRGGBB`.

        Raises:
            DeadlineExceeded: Drawing takes too long. The inspection stays stored.
        """
        regions = [to_region(region) for region in record.regions]
        size = record.image_width, record.image_height
        return await self._drawings.run(
            self._drawings.deadline(record.id), lambda: heatmap.draw_mask(regions, size, colour)
        )

    async def convert_image(
        self, record: InspectionRecord, client: str, disconnected: Disconnected | None = None
    ) -> bytes:
        """Return the image of a stored inspection as it was judged: an 8-bit RGB PNG.

        Args:
            record: The inspection.
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.

        Raises:
            ArtefactGone: The image is no longer stored.
            StoredImageUnreadable: It cannot be decoded.
            StoreUnavailable: It cannot be read.
            QueueFull, DeadlineExceeded: Too many artefacts are being drawn, or decoding takes too long.
            InvalidRequest: The client closed the connection while the request waited.
        """
        async with self._drawings.turn(record.id, client, disconnected) as deadline:
            return await self._drawings.run(deadline, lambda: self._convert(record, deadline))

    async def require_stored(self, record: InspectionRecord) -> None:
        """Check that the files are stored from which the heatmap is drawn, without reading them.

        Raises:
            ArtefactGone: The image or the map is no longer stored.
            StoreUnavailable: It cannot be examined.
        """
        await self.image_file(record, with_content=False)
        if not record.objections:
            await self.map_file(record, with_content=False)

    async def image_file(self, record: InspectionRecord, *, with_content: bool = True) -> StoredFile:
        """Return the image of a stored inspection byte for byte as it was sent.

        Args:
            record: The inspection.
            with_content: Read the first piece; otherwise only the size.

        Raises:
            ArtefactGone: The image is no longer stored.
            StoreUnavailable: It cannot be read.
        """
        return await self._read(lambda: self._store.files.open_image(record, with_content=with_content))

    async def map_file(self, record: InspectionRecord, *, with_content: bool = True) -> StoredFile:
        """Return the anomaly map of a stored inspection as a `.npy` file, float32 [h, w].

        Args:
            record: The inspection.
            with_content: As for `image_file`.

        Raises:
            NotJudged: The image is invalid, so it has no map.
            ArtefactGone: The map is no longer stored.
            StoreUnavailable: It cannot be read.
        """
        if record.objections:
            raise NotJudged(record.id)
        return await self._read(lambda: self._store.files.open_map(record, with_content=with_content))

    async def read_map(self, record: InspectionRecord) -> Float32Map:
        """Return the anomaly map of a judged inspection, float32 [h, w].

        Raises:
            ArtefactGone: The map is no longer stored.
            StoreUnavailable: It cannot be read.
        """
        return await self._read(lambda: self._store.files.map_of(record))

    async def read_piece(self, file: StoredFile, offset: int) -> bytes:
        """Return the piece of a file at an offset in bytes.

        Raises:
            StoreUnavailable: It cannot be read.
        """
        return await self._read(lambda: file.read(offset))

    def close(self) -> None:
        """Complete the submitted work and stop the threads."""
        self._drawings.close()
        self._readers.shutdown()

    async def _read(self, read: Callable[[], ResultT]) -> ResultT:
        return await asyncio.wrap_future(self._readers.submit(read))

    async def _draw_until(
        self, deadline: Deadline, record: InspectionRecord, media_type: str, *, legend: bool
    ) -> bytes:
        started = time.perf_counter()
        drawn = await self._drawings.run(deadline, lambda: self._draw(record, media_type, legend, deadline))
        self._metrics.stages.labels("encode").observe(time.perf_counter() - started)
        return drawn

    def _draw(self, record: InspectionRecord, media_type: str, legend: bool, deadline: Deadline) -> bytes:
        drawn, scale = load_image(self._store, record, deadline), None
        if not record.objections:  # an invalid image has no map
            anomaly_map = self._store.files.map_of(record)
            scale = HeatmapScale(record.heatmap_low, record.heatmap_high)
            drawn = heatmap.render(
                drawn,
                anomaly_map,
                scale,
                [to_region(region) for region in record.regions],
                judged_area(self._store, record, anomaly_map),
                colormap=self._colormap,
                fail_threshold=record.fail_threshold,
            )
        deadline.check()
        if legend:
            drawn = heatmap.draw_legend(drawn, _legend(record, scale, self._colormap))
        return heatmap.encode(drawn, media_type, self._heatmap_quality)

    def _convert(self, record: InspectionRecord, deadline: Deadline) -> bytes:
        return heatmap.encode(load_image(self._store, record, deadline), "image/png")


def load_image(store: Store, record: InspectionRecord, deadline: Deadline) -> UInt8Image:
    """Return the stored image as it was judged, uint8 [H, W, 3], RGB.

    Args:
        store: The stored inspections.
        record: The inspection.
        deadline: Until when it must be ready.

    Raises:
        ArtefactGone: The image is no longer stored.
        StoredImageUnreadable: It cannot be decoded.
        StoreUnavailable: It cannot be read.
        DeadlineExceeded: It takes too long.
    """
    data = store.files.image_of(record)
    deadline.check()
    rgb = decode_stored(record, data)
    deadline.check()
    return rgb


def judged_area(store: Store, record: InspectionRecord, anomaly_map: Float32Map) -> BoolMask | None:
    """Return the cells of the map that were judged, by the recipe in force at that time; None if all were.

    Raises:
        StoreUnavailable: The recipe cannot be read.
    """
    if record.judged_share is None:
        return None
    area = get_recipe(store.engine, record.product, record.recipe_revision).recipe.area
    height, width = anomaly_map.shape
    return judged_cells(area, (height, width), (record.image_width, record.image_height))


def _legend(record: InspectionRecord, scale: HeatmapScale | None, colormap: str) -> heatmap.Legend:
    return heatmap.Legend(
        decision=record.decision,
        by_score=record.by_score,
        score=record.score,
        p_value=record.p_value,
        fail_threshold=record.fail_threshold,
        review_threshold=record.review_threshold,
        reasons=tuple(dict.fromkeys(violation["detail"] for violation in record.objections or [])),
        scale=scale,
        colormap=colormap,
    )
