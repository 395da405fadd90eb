"""The way of one image through the service: read, infer, judge, remember, and only then answer.

The event loop only hands over. Each inspection has a thread of its own for its whole way, because every
hand-over between threads costs a single camera more than the work on either side; reading and judging, which
need a core, take turns. The graph runs on its batcher's thread, the image is stored by another one
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from uuid import UUID

import numpy as np

from service.bundle.arrays import Float32Map
from service.deployment.lease import ActiveProduct
from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.deployment.shadow import ShadowRunner
from service.errors import DeadlineExceeded
from service.inspection import heatmap
from service.inspection.area import BoolMask, judged_cells
from service.inspection.decoding import decoder
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.decoding.pixel_formats import PixelRules, RawLayout
from service.inspection.heatmap import HeatmapScale
from service.inspection.runtime.threads import cpu_quota
from service.monitoring.metrics import Metrics
from service.serving.admission import Admission
from service.serving.frozen_camera import QualityGuard
from service.serving.records import PartRecord, to_invalid_row, to_region, to_row
from service.settings import Settings
from service.store.errors import NotJudged, StoreUnavailable, UnknownInspection
from service.store.files import WrittenFile
from service.store.ids import new_id
from service.store.inspections import get_inspection
from service.store.recipes import get_recipe
from service.store.records import InspectionRecord
from service.store.store import Store

DISK_THREADS = 4


class InspectionLine:
    """Runs inspections.

    Args:
        settings: Limits and formats.
        registry: What inspects a product.
        store: Where verdicts are remembered.
        metrics: What is counted.
    """

    def __init__(self, settings: Settings, registry: Registry, store: Store, metrics: Metrics) -> None:
        self.settings = settings
        self.registry = registry
        self.store = store
        self.metrics = metrics
        self.references = ReferenceScores(store.engine)
        self.admission = Admission(settings.queue_limit)
        # Heatmaps that are asked for later are not part of the line's work, and must not use up its memory.
        self.drawing = Admission(settings.queue_limit)
        self.streams = Admission(settings.max_streams)
        self._inspections = ThreadPoolExecutor(settings.queue_limit, thread_name_prefix="inspection")
        self._drawings = ThreadPoolExecutor(cpu_quota(), thread_name_prefix="drawing")
        self._cores = threading.BoundedSemaphore(cpu_quota())
        self._disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        self.shadow = ShadowRunner(registry, store, self.references, metrics)
        self._guard = QualityGuard()
        metrics.set_queue(lambda: self.admission.depth, settings.queue_limit)
        metrics.streams.set_function(lambda: self.streams.depth)

    async def inspect(
        self, product: str, data: bytes, part: PartRecord, layout: RawLayout | None = None
    ) -> InspectionRecord:
        """Judge one image by the bundle and recipe in force when its turn comes, and remember the verdict.

        Args:
            product: What the image shows.
            data: The encoded image, or a camera buffer.
            part: What the sender says about it.
            layout: Of the camera buffer.

        Returns:
            What was stored. It is on disk already.

        Raises:
            TooManyPixels, NotAnImage, CorruptImage, BufferSizeMismatch, PixelMismatch: The image is not usable.
            AreaMismatch: It does not fit the recipe's polygons.
            UnknownProduct, ProductNotReady: Nothing inspects this product.
            QueueFull, DeadlineExceeded, ShuttingDown: It cannot be judged now.
            StoreUnavailable: The verdict could not be stored, so there is none.
        """
        work = self._inspections.submit(self._inspect, product, data, part, layout, time.perf_counter())
        return await asyncio.wrap_future(work)

    async def find(self, inspection_id: UUID) -> InspectionRecord:
        """A stored inspection.

        Raises:
            UnknownInspection: There is none with this id.
        """
        return await asyncio.wrap_future(self._disk.submit(get_inspection, self.store.engine, inspection_id))

    async def draw(self, row: InspectionRecord, media_type: str) -> bytes:
        """The heatmap of a stored inspection, encoded, on the scale and with the area that were in force when it was
        judged.

        Raises:
            ArtefactGone: Image or map are not on disk any more.
        """
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        drawn = await loop.run_in_executor(self._drawings, self._draw, row, media_type)
        self.metrics.stages.labels("encode").observe(time.perf_counter() - started)
        return drawn

    async def show_image(self, row: InspectionRecord) -> bytes:
        """The image of a stored inspection as it was judged: 8 bits RGB, as a PNG.

        Raises:
            ArtefactGone: It is not on disk any more.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._drawings, self._show_image, row)

    async def read_image(self, row: InspectionRecord) -> bytes:
        """The image of a stored inspection as it was sent.

        Raises:
            ArtefactGone: It is not on disk any more.
        """
        read = self._disk.submit(self.store.files.image_of, row)
        return await asyncio.wrap_future(read)

    async def read_map(self, row: InspectionRecord) -> bytes:
        """The anomaly map of a stored inspection as a `.npy` file, float32 [h, w].

        Raises:
            NotJudged: The image was invalid, so there never was a map.
            ArtefactGone: It is not on disk any more.
        """
        if row.objections:
            raise NotJudged(row.id)
        return await asyncio.wrap_future(self._disk.submit(self.store.files.map_of, row))

    def close(self) -> None:
        """End the threads; what they were given is finished first."""
        self._inspections.shutdown()
        self._drawings.shutdown()
        self._disk.shutdown()

    def _inspect(
        self, product: str, data: bytes, part: PartRecord, layout: RawLayout | None, arrived: float
    ) -> InspectionRecord:
        # Leased: another bundle may be activated meanwhile, and this one stays until the verdict is out.
        with self.registry.lease(product) as active:
            row = self._judge(active, data, part, layout, arrived)
        if row.score is not None:  # what was not worth a verdict is not worth two
            self.shadow.submit(row)
        return row

    def _judge(
        self, active: ActiveProduct, data: bytes, part: PartRecord, layout: RawLayout | None, arrived: float
    ) -> InspectionRecord:
        inspection_id, inspector = new_id(), active.inspector
        rules = active.recipe.recipe.pixels.rules(layout)
        with self._cores:
            # The batcher watches its own queue only; who already waited too long here is not worth decoding.
            if time.perf_counter() - arrived > self.settings.queue_deadline_s:
                raise DeadlineExceeded(self.settings.queue_deadline_s, 1.0)
            prepared = inspector.read(data, rules)
        reference = self.references.scores(active.bundle, active.recipe.recipe)
        if objections := self._guard.objections(active, prepared, part.station):
            row = to_invalid_row(inspection_id, active, prepared, objections, reference, data, part)
            return self._store_invalid(row, data)
        # The image goes to disk while the graph looks at it.
        image = self._disk.submit(self._write_image, inspection_id, prepared.media_type, data)
        anomaly_map: WrittenFile | None = None
        try:
            result = inspector.infer(prepared)
            with self._cores:
                judged = inspector.finish(prepared, result, active.recipe.recipe.criteria, reference)
            row = to_row(inspection_id, active, judged, reference, data, part)
            stored_from = time.perf_counter()
            anomaly_map = self.store.files.write_map(inspection_id, judged.anomaly_map)
            # Both files are whole and the image is on the disk before the row is committed. The map can be computed
            # again from image and bundle, so nobody waits until it would survive a power cut, too.
            image.result()
            self._disk.submit(anomaly_map.sync)
        except BaseException:
            wait([image])
            if anomaly_map is not None:
                anomaly_map.close()
            self.store.files.remove(inspection_id, prepared.media_type)
            raise
        self._commit(row, prepared.media_type)
        timings = {**judged.timings, "store": time.perf_counter() - stored_from}
        self.metrics.count_inspection(row.product, row.decision, judged.score, timings, row.batch_size)
        if judged.decision is not judged.by_score:
            self.metrics.softened.labels(row.product).inc()
        return row

    def _store_invalid(self, row: InspectionRecord, data: bytes) -> InspectionRecord:
        """Remember an image that was not worth a verdict: it shows whether lamp, lens or grabber is at fault."""
        stored_from = time.perf_counter()
        self._write_image(UUID(row.id), row.image_media_type, data)
        self._commit(row, row.image_media_type)
        timings = {stage: value / 1000 for stage, value in row.timings_ms.items()}
        timings["store"] = time.perf_counter() - stored_from
        reasons = {objection["reason"] for objection in row.objections or []}
        self.metrics.count_invalid(row.product, reasons, timings)
        return row

    def _draw(self, row: InspectionRecord, media_type: str) -> bytes:
        rgb = self._decode(row)
        if row.objections:  # no graph ever looked at it, so nothing lies over it
            return heatmap.encode(rgb, media_type, self.settings.heatmap_quality)
        anomaly_map = np.load(io.BytesIO(self.store.files.map_of(row)), allow_pickle=False)
        scale = HeatmapScale(row.heatmap_low, row.heatmap_high)
        regions = [to_region(region) for region in row.regions]
        overlay = heatmap.render(rgb, anomaly_map, scale, regions, self._judged_cells(row, anomaly_map))
        return heatmap.encode(overlay, media_type, self.settings.heatmap_quality)

    def _show_image(self, row: InspectionRecord) -> bytes:
        return heatmap.encode(self._decode(row), "image/png")

    def _decode(self, row: InspectionRecord) -> decoder.UInt8Image:
        """The image of a stored inspection, read as it was when it was judged."""
        data = self.store.files.image_of(row)
        # It was admitted once; limits that were lowered since do not hide it.
        limits = ImageLimits(max_bytes=len(data), max_pixels=row.image_width * row.image_height)
        return decoder.decode(data, limits, PixelRules.from_stored(row.image_pixels))

    def _judged_cells(self, row: InspectionRecord, anomaly_map: Float32Map) -> BoolMask | None:
        """The cells that were judged: those of the recipe that was in force then."""
        if row.judged_share is None:
            return None
        area = get_recipe(self.store.engine, row.product, row.recipe_revision).recipe.area
        height, width = anomaly_map.shape
        return judged_cells(area, (height, width), (row.image_width, row.image_height))

    def _write_image(self, inspection_id: UUID, media_type: str, data: bytes) -> None:
        self.store.files.write_image(inspection_id, media_type, data).sync()

    def _commit(self, row: InspectionRecord, media_type: str) -> None:
        try:
            self.store.writer.write(row)
        except StoreUnavailable:
            # Clients will come back; without this every try would leave two files that nobody ever asks for. A
            # database that does not even answer may have taken the row, so then they stay.
            inspection_id = UUID(row.id)
            with contextlib.suppress(StoreUnavailable):
                try:
                    get_inspection(self.store.engine, inspection_id)
                except UnknownInspection:
                    self.store.files.remove(inspection_id, media_type)
            raise
