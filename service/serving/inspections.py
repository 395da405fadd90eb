"""Inspections: admit an image, have it inspected on a thread, and read what is stored.

The event loop only submits the work, which `InspectionWork` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.deployment.registry import Registry
from service.deployment.shadow import ShadowRunner
from service.errors import PlumblineError, ShuttingDown
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.monitoring.refusals import RefusalLog
from service.serving.admission import Admission, Disconnected, Turn
from service.serving.hooks import InspectionHooks
from service.serving.idempotency import Inspected
from service.serving.image import Image, StatedBuffer
from service.serving.inspection_work import InspectionWork
from service.serving.judging import Judging
from service.serving.loads import BundleLoads
from service.serving.pagination import Page, read_page
from service.settings import Settings
from service.store.errors import StoreUnavailable, UnknownInspection
from service.store.health import StoreHealth
from service.store.ids import parse_id
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import get_inspection, list_inspections
from service.store.record_removal.state import missing_inspection, records_removed_until
from service.store.records import InspectionRecord
from service.store.session import reading
from service.store.store import Store

DISK_THREADS = 4


@dataclass(frozen=True)
class Neighbours:
    """Ids of the inspections beside one in a list; None at its ends."""

    older: str | None
    newer: str | None


class InspectionService:
    """Inspects images and reads stored inspections.

    Args:
        settings: Queue limit and deadline.
        registry: Products and the bundles that serve them.
        store: Stores records, images and anomaly maps.
        judging: Decodes and judges images.
        shadow: Runs shadow bundles on judged images.
        admission: Limits the inspections in flight.
        metrics: Counts inspections.
        health: Notified if a record cannot be stored.
        clock: The time of day.
        refusals: Logs images that are refused without an HTTP response of their own.
        hooks: Receive every stored inspection.
        require_valid: Called with the client under the lease; raises if the client may not send images any more.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: Store,
        *,
        judging: Judging,
        shadow: ShadowRunner,
        admission: Admission,
        metrics: Metrics,
        health: StoreHealth,
        clock: Clock,
        refusals: RefusalLog,
        hooks: InspectionHooks | None = None,
        require_valid: Callable[[str], None] = lambda _client: None,
    ) -> None:
        self._queue_deadline_s = settings.queue_deadline_s
        self._registry = registry
        self._store = store
        self._admission = admission
        self._metrics = metrics
        self._refusals = refusals
        self._inspections = ThreadPoolExecutor(settings.queue_limit, thread_name_prefix="inspection")
        self._disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        self._loads = BundleLoads(registry, settings.queue_limit)
        self._work = InspectionWork(
            registry,
            store,
            judging=judging,
            shadow=shadow,
            metrics=metrics,
            health=health,
            clock=clock,
            hooks=hooks or InspectionHooks(),
            disk=self._disk,
            deadline_s=settings.queue_deadline_s,
            require_valid=require_valid,
        )

    async def require_ready(self, product: str) -> None:
        """Check that a product can be inspected now.

        If none of its bundles is active here, the database is asked whether another process activated one.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            StoreUnavailable: The database is shared and cannot be read.
        """
        if self._store.is_shared and product not in self._registry.active:
            await asyncio.to_thread(self._registry.synchronise, product)
        self._registry.get(product)

    def active_version(self, product: str) -> str:
        """Return the version of the bundle that inspects a product now.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
        """
        return self._registry.get(product).bundle.version

    def require_usable(self, product: str, buffer: StatedBuffer) -> None:
        """Check what a client states about a camera buffer before the image is received.

        The layout that is used follows from the recipe in force when the image is judged.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            UnknownPixelFormat, PixelMismatch, InvalidRequest: See `PixelSetting.layout`.
        """
        buffer.layout(self._registry.get(product).recipe.recipe)

    def require_open(self) -> None:
        """Check that the service accepts images at all.

        Raises:
            ShuttingDown: The service is stopping.
            StoreUnavailable: Nothing can be stored since the start.
        """
        if self._admission.is_draining:
            raise ShuttingDown()
        if self._store.read_only_reason is not None:
            raise StoreUnavailable(self._store.read_only_reason)

    @contextmanager
    def accept(self, client: str | None) -> Iterator[None]:
        """Accept one request before its body is received. It takes its place in the queue with `turn`, afterwards.

        Errors that mean a lack of capacity are counted, whether they are raised here or inside the block.

        Args:
            client: Identity of the client; None if the images of the request wait for their places one by one.

        Raises:
            QueueFull, ShuttingDown: The request cannot be admitted now.
            StoreUnavailable: Nothing can be stored since the start.
        """
        try:
            self.require_open()
            if client is not None:
                self._admission.check(client)
            yield
        except PlumblineError as error:
            self._metrics.count_shed(error)
            raise

    @asynccontextmanager
    async def turn(self, product: str, client: str, disconnected: Disconnected) -> AsyncGenerator[Turn]:
        """Wait for the turn of an accepted request, and count it as in flight until the block ends.

        If the bundle of the product is not in memory, it is loaded first.

        Args:
            product: Name of the product.
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.

        Returns:
            The turn; pass it to `inspect`.

        Raises:
            QueueFull: Another client needs the place.
            DeadlineExceeded: The turn did not come in time.
            InvalidRequest: The client closed the connection.
            UnknownProduct, ProductNotReady: No bundle serves this product, or it could not be loaded in time.
        """
        since = time.perf_counter()
        is_hit = await self._loads.wait(product, self._queue_deadline_s, disconnected)
        remaining_s = self._queue_deadline_s - (time.perf_counter() - since)
        async with self._admission.turn(client, remaining_s, disconnected, is_accepted=True) as rank:
            yield Turn(since, rank, client, is_hit)

    async def inspect(self, product: str, image: Image, turn: Turn) -> InspectionRecord:
        """Inspect one image with the bundle and recipe that are in force when its turn comes.

        The caller must have its turn: see `turn`.

        Args:
            product: Name of the product.
            image: The image.
            turn: The turn of the request.

        Returns:
            The record, which is stored already.

        Raises:
            TooManyPixels, NotAnImage, CorruptImage, BufferSizeMismatch, PixelMismatch: The image cannot be used.
            AreaMismatch: The image does not fit the recipe's polygons.
            UnknownProduct, ProductNotReady: No bundle serves this product.
            QueueFull, DeadlineExceeded, ShuttingDown: The image cannot be inspected now.
            StoreUnavailable: The record could not be stored, so there is no decision.
            IdempotencyKeyUsed: The image's idempotency key belongs to a different request.
        """
        return (await self.inspect_once(product, image, turn)).record

    async def inspect_once(self, product: str, image: Image, turn: Turn) -> Inspected:
        """Inspect one image, unless an earlier request with the same idempotency key did so.

        Args:
            product: Name of the product.
            image: The image.
            turn: The turn of the request.

        Raises:
            IdempotencyKeyUsed: The key belongs to a different request.
            PlumblineError: See `inspect`.
        """
        done: Future[Inspected] = Future()
        self._inspections.submit(self._inspect, product, image, turn, done)
        return await asyncio.wrap_future(done)

    async def inspect_when_admitted(self, product: str, image: Image, client: str) -> InspectionRecord:
        """Inspect one of several images; wait for admission as long as an inspection may wait for its turn.

        Args:
            product: Name of the product.
            image: The image.
            client: Identity of the client.

        Raises:
            PlumblineError: See `inspect`.
        """
        since = time.perf_counter()
        is_hit = await self._loads.wait(product, self._queue_deadline_s)
        remaining_s = self._queue_deadline_s - (time.perf_counter() - since)
        async with self._admission.wait(remaining_s, client) as rank:
            return await self.inspect(product, image, Turn(since, rank, client, is_hit))

    def count_refusal(self, error: PlumblineError, request_id: str | None) -> None:
        """Count and log an image or a stream that was refused without an HTTP response of its own.

        Args:
            error: Why it was refused.
            request_id: The id that the problem names.
        """
        self._metrics.count_refusal(error)
        self._refusals.record(error.slug, request_id, status=error.status, reason=error.detail)

    def get(self, inspection_id: str) -> InspectionRecord:
        """Return a stored inspection.

        Raises:
            UnknownInspection: There is no inspection with this id.
            StoreUnavailable: The database cannot be used.
        """
        return get_inspection(self._store.engine, parse_id(inspection_id))

    async def find(self, inspection_id: str) -> InspectionRecord:
        """Return a stored inspection without blocking the event loop.

        Raises:
            UnknownInspection: There is no inspection with this id.
            StoreUnavailable: The database cannot be used.
        """
        return await asyncio.wrap_future(self._disk.submit(self.get, inspection_id))

    async def missing(self, inspection_id: str) -> UnknownInspection:
        """Return the error that `find` raises if no inspection has this id, without blocking the event loop.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        return await asyncio.wrap_future(self._disk.submit(self._missing, inspection_id))

    def records_removed_until(self, which: InspectionFilter) -> datetime | None:
        """Return the time of the newest record that was removed of the products of a filter; None if none was.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        return records_removed_until(self._store.engine, which.values["product"], which.since)

    def _missing(self, inspection_id: str) -> UnknownInspection:
        with reading(self._store.engine) as session:
            return missing_inspection(session, inspection_id)

    def search(self, which: InspectionFilter, before: UUID | None, limit: int) -> Page[InspectionRecord]:
        """Return a page of stored inspections, newest first.

        Args:
            which: Filter.
            before: Return only inspections older than this id.
            limit: Maximum number of inspections.

        Raises:
            UnknownProduct: The filter names a product that does not exist, and no inspection of it is stored.
            StoreUnavailable: The database cannot be used.
        """
        engine = self._store.engine
        if (product := which.product) is not None and not list_inspections(engine, InspectionFilter(product), limit=1):
            self._registry.products.look_up(product)
        return read_page(lambda count: list_inspections(engine, which, before=before, limit=count), limit)

    def search_newer(self, which: InspectionFilter, after: UUID, limit: int) -> Page[InspectionRecord]:
        """Return the page of stored inspections that precedes an inspection in the list, newest first.

        Args:
            which: Filter.
            after: Return only inspections newer than this id.
            limit: Maximum number of inspections.

        Returns:
            The page. `next_cursor` is the last id of the page if older ones follow; this one does.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        found = list_inspections(self._store.engine, which, after=after, limit=limit)
        return Page(found[::-1], found[0].id if found else None)

    def neighbours(self, record: InspectionRecord, which: InspectionFilter) -> Neighbours:
        """Return the inspections beside one in the list of a filter.

        Args:
            record: The inspection.
            which: Filter.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        engine, here = self._store.engine, parse_id(record.id)
        older, newer = (
            list_inspections(engine, which, limit=1, before=here),
            list_inspections(engine, which, limit=1, after=here),
        )
        return Neighbours(older[0].id if older else None, newer[0].id if newer else None)

    def _inspect(self, product: str, image: Image, turn: Turn, done: Future[Inspected]) -> None:
        """Inspect one image, hand the result over, and only then do what the response need not wait for."""
        if not done.set_running_or_notify_cancel():
            return
        deferred: list[Callable[[], None]] = []
        try:
            inspected = self._work.inspect(product, image, turn, deferred.append)
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            done.set_exception(error)
        else:
            done.set_result(inspected)
        for work in deferred:
            work()

    def close(self) -> None:
        """Complete the submitted work and stop the threads."""
        self._inspections.shutdown()
        self._disk.shutdown()
