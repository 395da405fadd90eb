"""Micro-batching: one bounded queue per session, and one inference thread for each batch that may run at a time.

A batch forms only while the session is busy: all images that were queued meanwhile are inferred together. So a single
camera has no extra latency, and many cameras get the throughput of batches. Where several batches at the same time use
the cores better (see `concurrency`), the next one starts while others run.

On a CPU, an image that need not wait is inferred on the thread that brings it: to wake another thread and to be woken
by it takes up to a millisecond, most of all on a virtual machine whose other core is idle.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import structlog

from service.bundle.arrays import Float32Map, UInt8Image
from service.errors import DeadlineExceeded, QueueFull, ShuttingDown
from service.inspection.runtime.session import Session

_OVERTAKEN_S = 0.5
CONTENDED_S = 1.0
"""So long after a batch had to share the cores, batches use the session of one thread even if they start alone: the
next image is then most likely being decoded, and the threads of both sessions would contend for the cores."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchingOptions:
    """Options of the micro-batcher.

    Attributes:
        max_batch: Largest batch; limits the memory of an inference run.
        queue_limit: Largest number of waiting images; further images are refused immediately.
        deadline_s: An image that waited longer than this, in seconds, is dropped without a verdict.
        concurrency: Batches that may run at the same time. None measures it when a bundle is opened; a batcher takes
            it as 1.
        may_use_two_sessions: Whether a measured concurrency may need a second session, and with it the memory of the
            graph a second time.
    """

    max_batch: int = 4
    queue_limit: int = 32
    deadline_s: float = 5.0
    concurrency: int | None = 1
    may_use_two_sessions: bool = True


@dataclass(frozen=True)
class PatchResult:
    """The result of the graph for one image.

    Attributes:
        anomaly_map: float32 [h, w].
        gain: Factor on the image score, None where the method has none.
        queue_s: Seconds between submission and the start of its batch.
        infer_s: Duration of the batch in seconds.
        batch_size: Images in the batch.
        windows: Rows and columns of the map that are scored separately, of which the highest score counts: the tiles of
            a tiled image. Empty means the whole map.
    """

    anomaly_map: Float32Map
    gain: float | None
    queue_s: float
    infer_s: float
    batch_size: int
    windows: tuple[tuple[slice, slice], ...] = ()


@dataclass(frozen=True)
class _Waiting:
    image: UInt8Image
    since: float
    future: Future[PatchResult]
    rank: int

    def is_overtaken_by(self, rank: int, now: float) -> bool:
        return self.rank > rank and now - self.since < _OVERTAKEN_S


class MicroBatcher:
    """Queues images from many threads for one session.

    Args:
        session: Used by this batcher's threads and by those that call `run`. If it may not run concurrently, it is used
            by the only thread of this batcher, and the options state a concurrency of 1.
        options: Limits.
        clock: Monotonic time in seconds; a parameter so that deadlines can be tested.
        open_narrow: Opens a session of one thread with the same results, for batches that do not run alone and those of
            the second after; None if it cannot. It is called on a thread of its own when such a batch starts for the
            first time. Without it, all batches run in `session`.
    """

    def __init__(
        self,
        session: Session,
        options: BatchingOptions | None = None,
        clock: Callable[[], float] = time.perf_counter,
        open_narrow: Callable[[], Session | None] | None = None,
    ) -> None:
        self.options = options or BatchingOptions()
        self._session = session
        self._narrow: Session | None = None
        self._open_narrow = open_narrow
        self._opener: threading.Thread | None = None
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._batch_s = 0.05  # moving average of the duration of a batch, for Retry-After
        self._running = 0  # batches
        self._contended_at = -math.inf  # when a batch last started beside another one or before waiting images
        self._threads = [
            threading.Thread(target=self._work, name="inference", daemon=True) for _ in range(self.concurrency)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def concurrency(self) -> int:
        """Return the number of batches that may run at the same time."""
        return self.options.concurrency or 1

    @property
    def depth(self) -> int:
        """Return the number of waiting images."""
        return len(self._waiting)

    def submit(self, image: UInt8Image, rank: int = 0) -> Future[PatchResult]:
        """Queue one prepared image.

        Args:
            image: uint8 [H, W, 3] of the graph's input size.
            rank: Images of a lower rank run before those that have waited for a short time only.

        Returns:
            A future. It raises `DeadlineExceeded` if the image waited too long, or the exception of the session.

        Raises:
            QueueFull: The queue is full.
            ShuttingDown: The batcher is closed.
        """
        future: Future[PatchResult] = Future()
        with self._changed:
            if self._closed:
                raise ShuttingDown
            if len(self._waiting) >= self.options.queue_limit:
                raise QueueFull(self.options.queue_limit, self._retry_after())
            now, position = self._clock(), len(self._waiting)
            while position and self._waiting[position - 1].is_overtaken_by(rank, now):
                position -= 1
            self._waiting.insert(position, _Waiting(image, now, future, rank))
            self._changed.notify()
        return future

    def run(self, image: UInt8Image, rank: int = 0) -> PatchResult:
        """Infer one prepared image, on the calling thread if a batch may start now, and wait for the result.

        Args:
            image: As for `submit`.
            rank: As for `submit`.

        Raises:
            QueueFull, ShuttingDown, DeadlineExceeded: As for `submit`.
        """
        with self._changed:
            # Other providers than the CPU want all runs on one thread.
            is_free = not self._closed and not self._waiting and self._running < self.concurrency
            session = self._begin() if is_free and self._session.provider == "cpu" else None
        if session is None:
            return self.submit(image, rank).result()
        item = _Waiting(image, self._clock(), Future(), rank)
        item.future.set_running_or_notify_cancel()
        try:
            self._infer([item], session)
        finally:
            self._end()
        return item.future.result()

    def close(self, *, drain: bool = True) -> None:
        """Accept no more images, finish the waiting ones (or refuse them, without `drain`), and end the threads."""
        with self._changed:
            self._closed = True
            refused = [] if drain else list(self._waiting)
            if not drain:
                self._waiting.clear()
            self._changed.notify_all()
        for item in refused:
            item.future.set_exception(ShuttingDown())
        for thread in self._threads:
            thread.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)  # on the threads of callers
        if self._opener is not None:
            self._opener.join()
        if self._narrow is not None:
            self._narrow.close()

    def _retry_after(self) -> float:
        # Time to process the current queue. A camera that retries sooner would find it still full.
        batches = len(self._waiting) / self.options.max_batch / self.concurrency
        return round(max(0.1, batches * self._batch_s), 1)

    def _work(self) -> None:
        while next_batch := self._next_batch():
            self._infer(*next_batch)
            self._end()

    def _begin(self) -> Session:
        """Count a batch that starts now, and return the session that runs it. The lock is held."""
        self._running += 1
        now = self._clock()
        if self._running > 1 or self._waiting:
            self._contended_at = now
        elif now - self._contended_at > CONTENDED_S:
            return self._session
        if self._open_narrow is not None and self._opener is None and not self._closed:
            self._start_opener()
        return self._narrow or self._session

    def _end(self) -> None:
        """Stop counting a batch, so that the next one may start."""
        with self._changed:
            self._running -= 1
            if self._closed:
                self._changed.notify_all()
            elif self._waiting:
                self._changed.notify()

    def _start_opener(self) -> None:
        """Begin to open the session of one thread. The lock is held."""
        opener = threading.Thread(target=self._open, name="narrow-session", daemon=True)
        try:
            opener.start()
        except RuntimeError:  # the process may have no more threads; the images are inferred without it
            log.exception("session of one thread not opened")
            self._open_narrow = None
        else:
            self._opener = opener

    def _open(self) -> None:
        assert self._open_narrow is not None
        try:
            self._narrow = self._open_narrow()
        except Exception:  # the images are inferred without it
            log.exception("session of one thread not opened")

    def _next_batch(self) -> tuple[list[_Waiting], Session] | None:
        """Wait for images, and return the next batch and its session; None if the batcher is closed and empty."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._can_start() if self._waiting else self._closed)
                if not self._waiting:
                    return None
                # The images are divided between the batches that can start now.
                share = math.ceil(len(self._waiting) / (self.concurrency - self._running))
                taken = [self._waiting.popleft() for _ in range(min(share, self.options.max_batch))]
                session = self._begin()
            if batch := [item for item in taken if self._should_run(item)]:
                return batch, session
            self._end()

    def _can_start(self) -> bool:
        return self._running < self.concurrency

    def _should_run(self, item: _Waiting) -> bool:
        if not item.future.set_running_or_notify_cancel():
            return False  # cancelled: the client has disconnected
        if self._clock() - item.since <= self.options.deadline_s:
            return True
        item.future.set_exception(DeadlineExceeded(self.options.deadline_s, self._retry_after()))
        return False

    def _infer(self, batch: list[_Waiting], session: Session) -> None:
        started = self._clock()
        try:
            images = [item.image for item in batch]
            output = session.run(images[0][None] if len(images) == 1 else np.stack(images))  # one image needs no copy
            infer_s = self._clock() - started
            # Copies, because views would keep the maps of the whole batch in memory.
            maps = [output.maps[index].copy() for index in range(len(batch))]
            gains = [None if output.gains is None else float(output.gains[index]) for index in range(len(batch))]
        except Exception as error:  # noqa: BLE001 - reported to these images; the thread continues
            for item in batch:
                item.future.set_exception(error)
            return
        with self._changed:
            self._batch_s += 0.1 * (infer_s - self._batch_s)
        for item, anomaly_map, gain in zip(batch, maps, gains, strict=True):
            item.future.set_result(PatchResult(anomaly_map, gain, started - item.since, infer_s, len(batch)))
