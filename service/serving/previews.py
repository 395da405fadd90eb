"""Previews of stored inspections for pages: the image at a limited size, and the heatmap alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

from service.bundle.arrays import Float32Map, UInt8Image
from service.inspection import heatmap
from service.inspection.area import BoolMask
from service.inspection.heatmap import HeatmapScale
from service.inspection.heatmap.layer import LAYER_MEDIA_TYPE
from service.inspection.runtime.threads import cpu_quota
from service.schemas.inspection import PreviewLayer
from service.serving.admission import Disconnected
from service.serving.artefacts import ArtefactService, judged_area, load_image
from service.serving.drawing import Deadline, DrawingThreads
from service.serving.preview_cache import PreviewCache
from service.settings import Settings
from service.store.errors import ArtefactGone
from service.store.records import InspectionRecord
from service.store.store import Store
from service.version import VERSION

MEDIA_TYPES: dict[PreviewLayer, str] = {"image": "image/jpeg", "overlay": LAYER_MEDIA_TYPE}


@dataclass(frozen=True)
class Layer:
    """An encoded preview.

    Attributes:
        media_type: Its media type.
        size_wh: Width and height in pixels.
        content: The encoded image.
    """

    media_type: str
    size_wh: tuple[int, int]
    content: bytes


class PreviewService:
    """Draws previews at low priority and keeps them in a cache, so that several pages do not draw the same twice.

    Args:
        settings: Colour map, quality, size of the cache, and the limit of requests in flight.
        store: The stored inspections.
        artefacts: Examines stored files.
    """

    def __init__(self, settings: Settings, store: Store, artefacts: ArtefactService) -> None:
        self._store = store
        self._artefacts = artefacts
        self._quality = settings.heatmap_quality
        self._colormap = settings.heatmap_colormap
        threads = max(1, cpu_quota() // 2)
        self._drawings = DrawingThreads(
            "preview", threads, settings.queue_limit, settings.queue_deadline_s, is_background=True
        )
        self._cache = PreviewCache(settings.preview_cache_bytes)

    def tag(self, record: InspectionRecord, layer: PreviewLayer, max_side: int) -> str:
        """Return the entity tag of a preview, without drawing it.

        A preview depends on the stored inspection, which never changes, on the settings, and on the version.
        """
        facts = (record.id, layer, max_side, self._quality, self._colormap, VERSION)
        return f'"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"'

    async def require_stored(self, record: InspectionRecord) -> None:
        """Check that the files are stored from which previews are drawn, without reading them.

        Raises:
            ArtefactGone: The image or the map is no longer stored.
            StoreUnavailable: It cannot be examined.
        """
        await self._artefacts.require_stored(record)

    async def get(
        self,
        record: InspectionRecord,
        layer: PreviewLayer,
        max_side: int,
        client: str,
        disconnected: Disconnected | None = None,
    ) -> bytes:
        """Return a preview, encoded as `MEDIA_TYPES` states.

        Args:
            record: The inspection.
            layer: `image`, or `overlay` for the heatmap alone, which is transparent for an invalid image.
            max_side: Longest side in pixels. An image that is smaller is not enlarged.
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.

        Raises:
            ArtefactGone: The image or the map is no longer stored.
            StoredImageUnreadable: The image cannot be decoded.
            StoreUnavailable: A file or the recipe cannot be read.
            QueueFull, DeadlineExceeded: Too many previews are being drawn, or drawing takes too long.
            InvalidRequest: The client closed the connection.
        """
        if record.artefacts_removed_at is not None:  # also if the preview is still in the cache
            raise ArtefactGone("image", record.id, record.artefacts_removed_at)

        async def draw() -> bytes:
            async with self._drawings.turn(record.id, client) as deadline:
                return await self._drawings.run(deadline, lambda: self._draw(record, layer, max_side, deadline))

        return await self._cache.get((record.id, layer, max_side), draw, disconnected)

    def close(self) -> None:
        """Complete the submitted work and stop the threads."""
        self._drawings.close()

    def _draw(self, record: InspectionRecord, layer: PreviewLayer, max_side: int, deadline: Deadline) -> bytes:
        size = preview_size(record.image_width, record.image_height, max_side)
        if layer == "image":
            return draw_image(load_image(self._store, record, deadline), size, self._quality)
        if record.objections:
            self._store.files.open_image(record, with_content=False)
            return draw_overlay(record, None, None, size, self._colormap)
        anomaly_map = self._store.files.map_of(record)
        return draw_overlay(record, anomaly_map, judged_area(self._store, record, anomaly_map), size, self._colormap)


def draw_image(rgb: UInt8Image, size_wh: tuple[int, int], quality: int) -> bytes:
    """Return an image in the given size.

    Args:
        rgb: uint8 [H, W, 3].
        size_wh: Width and height of the preview.
        quality: JPEG quality.
    """
    if size_wh != (rgb.shape[1], rgb.shape[0]):
        rgb = np.asarray(cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    return heatmap.encode(rgb, MEDIA_TYPES["image"], quality)


def draw_overlay(
    record: InspectionRecord,
    anomaly_map: Float32Map | None,
    judged: BoolMask | None,
    size_wh: tuple[int, int],
    colormap: str,
) -> bytes:
    """Return the heatmap of an inspection alone, which is transparent for an image that was not judged.

    Args:
        record: The inspection, whose scale is used.
        anomaly_map: float32 [h, w]; None for an invalid image.
        judged: bool [h, w], the cells that were judged; None means all.
        size_wh: Width and height of the preview.
        colormap: One of `COLORMAPS`.
    """
    if anomaly_map is None:
        return heatmap.empty_layer(size_wh)
    scale = HeatmapScale(record.heatmap_low, record.heatmap_high)
    return heatmap.draw_layer(anomaly_map, scale, size_wh, judged, colormap, record.fail_threshold)


def preview_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Return width and height of the preview of an image, in pixels, at least 1."""
    longest = max(width, height)
    if longest <= max_side:
        return width, height
    return max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))
