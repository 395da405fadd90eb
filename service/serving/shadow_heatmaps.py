"""Heatmaps of shadow bundles. Their maps are not stored, so the image is judged again when a heatmap is requested."""

from __future__ import annotations

import threading
from collections import OrderedDict

from service.deployment.errors import ShadowNotLoaded
from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.deployment.rejudge import judge_again
from service.inspection import heatmap
from service.serving.admission import Disconnected
from service.serving.drawing import DrawingThreads
from service.serving.previews import preview_size
from service.settings import Settings
from service.store.errors import NotJudged
from service.store.records import InspectionRecord
from service.store.store import Store

CACHE_BYTES = 16 * 2**20
_Key = tuple[str, str, str, int]


class ShadowHeatmapService:
    """Draws heatmaps of the shadow bundle that is loaded, one at a time and at lower priority than inspections.

    Args:
        settings: Colours of heatmaps, and the limit of requests in flight.
        registry: Products and their shadow bundles.
        store: Stored inspections and their images.
        references: Reference scores for p-values.
    """

    def __init__(self, settings: Settings, registry: Registry, store: Store, references: ReferenceScores) -> None:
        self._registry = registry
        self._store = store
        self._references = references
        self._colormap = settings.heatmap_colormap
        self._drawings = DrawingThreads(
            "shadow-heatmap", 1, settings.queue_limit, settings.queue_deadline_s, is_background=True
        )
        self._lock = threading.Lock()
        self._drawn: OrderedDict[_Key, bytes] = OrderedDict()

    async def draw(
        self,
        record: InspectionRecord,
        version: str | None,
        max_side: int,
        client: str,
        disconnected: Disconnected | None = None,
    ) -> bytes:
        """Draw the heatmap alone of an inspection's image by the shadow bundle, on the scale of that bundle.

        Args:
            record: The inspection.
            version: Version of the shadow bundle; None for the one that is loaded.
            max_side: Longest side in pixels.
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.

        Returns:
            A transparent layer of the size of the image's preview, encoded as `LAYER_MEDIA_TYPE`.

        Raises:
            NotJudged: The image is invalid, so no bundle judges it.
            ShadowNotLoaded: The bundle is not the product's shadow now.
            ArtefactGone, StoredImageUnreadable: The image is no longer stored or cannot be decoded.
            AreaMismatch, ScoreNotFinite: The shadow bundle cannot judge the image.
            QueueFull, DeadlineExceeded, ShuttingDown: The image cannot be judged now.
            InvalidRequest: The client closed the connection while the request waited.
            StoreUnavailable: The image cannot be read.
        """
        if record.objections:
            raise NotJudged(record.id)
        async with self._drawings.turn(record.id, client, disconnected) as deadline:
            return await self._drawings.run(deadline, lambda: self._draw(record, version, max_side))

    def close(self) -> None:
        """Complete the submitted work and stop the thread."""
        self._drawings.close()

    def _draw(self, record: InspectionRecord, version: str | None, max_side: int) -> bytes:
        with self._registry.lease_shadow(record.product) as shadow:
            if shadow is None or version not in {None, shadow.bundle.version}:
                loaded = None if shadow is None else shadow.bundle.version
                raise ShadowNotLoaded(record.product, version, loaded)
            recipe = shadow.recipe
            # The recipe of a shadow changes with that of the product.
            key = record.id, shadow.bundle.digest, recipe.model_dump_json(), max_side
            with self._lock:
                if (known := self._drawn.get(key)) is not None:
                    self._drawn.move_to_end(key)
                    return known
            judged = judge_again(self._store, self._references, record, shadow.inspector, recipe)
            scale = shadow.inspector.heatmap_scale(recipe.thresholds, recipe.heatmap.low, recipe.heatmap.high)
        size = preview_size(record.image_width, record.image_height, max_side)
        data = heatmap.draw_layer(judged.anomaly_map, scale, size, judged.judged, self._colormap, recipe.fail_threshold)
        with self._lock:
            self._drawn[key] = data
            while sum(map(len, self._drawn.values())) > CACHE_BYTES:
                self._drawn.popitem(last=False)
        return data
