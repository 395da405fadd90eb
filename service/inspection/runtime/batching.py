"""Micro-batching: one bounded queue and one inference thread per session.

A batch forms only while the session is busy: whatever has queued up meanwhile goes together. A lone camera therefore
never waits for company, and a crowd gets the throughput of batches.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from service.bundle.arrays import Float32Map, UInt8Image
from service.errors import DeadlineExceeded, QueueFull, ShuttingDown
from service.inspection.runtime.session import GraphSession


@dataclass(frozen=True)
class BatchingOptions:
    """How much may wait and go together.

    Attributes:
        max_batch: Largest batch; its memory is what must fit.
        queue_limit: Images that may wait; one more is refused at once.
        deadline_s: An image that waited longer than this, in seconds, is dropped unjudged.
    """

    max_batch: int = 4
    queue_limit: int = 32
    deadline_s: float = 5.0


@dataclass(frozen=True)
class PatchResult:
    """The graph's answer for one image.

    Attributes:
        anomaly_map: float32 [h, w].
        gain: Factor on the image score, None where the method has none.
        queue_s: Seconds between submission and the start of its batch.
        infer_s: Seconds that the batch took.
        batch_size: Images in it.
        windows: Rows and columns of the map that are scored one by one, the highest of which counts: the tiles of a
            image that was looked at in tiles. Empty: the whole map.
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


class MicroBatcher:
    """Feeds a session from many threads.

    Args:
        session: Run by this batcher's own thread only.
        options: Limits.
        clock: Monotonic seconds; a parameter so that deadlines can be tested.
    """

    def __init__(
        self,
        session: GraphSession,
        options: BatchingOptions | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.options = options or BatchingOptions()
        self._session = session
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._batch_s = 0.05  # running mean of a batch's duration, for Retry-After
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Images that wait now."""
        return len(self._waiting)

    def submit(self, image: UInt8Image) -> Future[PatchResult]:
        """Queue one prepared image.

        Args:
            image: uint8 [H, W, 3] of the graph's input size.

        Returns:
            A future. It raises DeadlineExceeded when the image waited too long, or what the session raised.

        Raises:
            QueueFull: As many images wait as may.
            ShuttingDown: The batcher is closed.
        """
        future: Future[PatchResult] = Future()
        with self._changed:
            if self._closed:
                raise ShuttingDown
            if len(self._waiting) >= self.options.queue_limit:
                raise QueueFull(self.options.queue_limit, self._retry_after())
            self._waiting.append(_Waiting(image, self._clock(), future))
            self._changed.notify()
        return future

    def close(self, *, drain: bool = True) -> None:
        """Take no more images; answer those that wait (or refuse them, without `drain`) and end the thread."""
        with self._changed:
            self._closed = True
            refused = [] if drain else list(self._waiting)
            if not drain:
                self._waiting.clear()
            self._changed.notify()
        for item in refused:
            item.future.set_exception(ShuttingDown())
        self._thread.join()

    def _retry_after(self) -> float:
        # Until the queue that stands now is worked off; cameras that come back sooner only meet it again.
        batches = len(self._waiting) / self.options.max_batch
        return round(max(0.1, batches * self._batch_s), 1)

    def _work(self) -> None:
        while batch := self._next_batch():
            self._infer(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Wait for images and take what fits; an empty list means that the batcher is closed and drained."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                count = min(len(self._waiting), self.options.max_batch)
                taken = [self._waiting.popleft() for _ in range(count)]
            if batch := [item for item in taken if self._still_wanted(item)]:
                return batch

    def _still_wanted(self, item: _Waiting) -> bool:
        if not item.future.set_running_or_notify_cancel():
            return False  # the client went away
        if self._clock() - item.since <= self.options.deadline_s:
            return True
        item.future.set_exception(DeadlineExceeded(self.options.deadline_s, self._retry_after()))
        return False

    def _infer(self, batch: list[_Waiting]) -> None:
        started = self._clock()
        try:
            output = self._session.run(np.stack([item.image for item in batch]))
            infer_s = self._clock() - started
            # Copies: views would keep the whole batch's maps alive as long as one of them is.
            maps = [output.maps[index].copy() for index in range(len(batch))]
            gains = [None if output.gains is None else float(output.gains[index]) for index in range(len(batch))]
        except Exception as error:  # noqa: BLE001 - it belongs to these images; the thread lives on
            for item in batch:
                item.future.set_exception(error)
            return
        self._batch_s += 0.1 * (infer_s - self._batch_s)
        for item, anomaly_map, gain in zip(batch, maps, gains, strict=True):
            item.future.set_result(PatchResult(anomaly_map, gain, started - item.since, infer_s, len(batch)))
