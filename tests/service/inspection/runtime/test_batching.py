import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from service.bundle.arrays import UInt8Image
from service.errors import DeadlineExceeded, QueueFull, ShuttingDown
from service.inspection.runtime.batching import CONTENDED_S, BatchingOptions, MicroBatcher, PatchResult
from service.inspection.runtime.session import GraphOutput, GraphSession, SessionOptions
from tests.bundles import part, tiny_draft, tiny_model

MODEL = tiny_model(tiny_draft()).SerializeToString()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for ten seconds at most."""
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


class GatedSession(GraphSession):
    """A session that blocks on an event, so that a test controls when it is busy."""

    def __init__(self) -> None:
        super().__init__(MODEL, SessionOptions(provider="cpu", threads=1))
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []

    def run(self, images: UInt8Image, *, keeps_memory: bool = True) -> GraphOutput:
        self.entered.release()
        assert self.gate.wait(10)
        self.batches.append(len(images))
        return super().run(images, keeps_memory=keeps_memory)


@contextmanager
def busy_batcher(options: BatchingOptions) -> Iterator[tuple[MicroBatcher, GatedSession, Future[PatchResult]]]:
    """Return a batcher whose session is busy with one image."""
    session = GatedSession()
    batcher = MicroBatcher(session, options)
    first = batcher.submit(part())
    assert session.entered.acquire(timeout=10)
    try:
        yield batcher, session, first
    finally:
        session.gate.set()
        batcher.close()


def test_single_image_is_inferred_without_waiting() -> None:
    session = GatedSession()
    session.gate.set()
    batcher = MicroBatcher(session)

    result = batcher.submit(part(brightness=0)).result(10)

    assert result.batch_size == 1
    np.testing.assert_allclose(result.anomaly_map, 0.5)
    batcher.close()


def test_images_queued_while_the_session_is_busy_form_a_batch() -> None:
    with busy_batcher(BatchingOptions(max_batch=3)) as (batcher, session, first):
        levels = [0, 51, 102, 153, 204]
        rest = [batcher.submit(part(brightness=level)) for level in levels]
        assert batcher.depth == 5
        session.gate.set()

        results = [future.result(10) for future in rest]

    assert first.result(10).batch_size == 1
    assert session.batches == [1, 3, 2]
    for level, result in zip(levels, results, strict=True):
        np.testing.assert_allclose(result.anomaly_map, abs(level / 255 - 0.5), atol=1e-6)


def test_images_of_a_lower_rank_run_first_unless_others_have_waited() -> None:
    now = [0.0]
    session = GatedSession()
    batcher = MicroBatcher(session, BatchingOptions(max_batch=1), clock=lambda: now[0])
    first = batcher.submit(part())
    assert session.entered.acquire(timeout=10)
    order: list[str] = []

    def submit(name: str, rank: int) -> Future[PatchResult]:
        future = batcher.submit(part(), rank)
        future.add_done_callback(lambda _: order.append(name))
        return future

    waiting = [submit("greedy 0", 3)]
    now[0] = 0.6  # greedy 0 has waited for so long that no other image goes before it
    waiting += [submit("greedy 1", 3), submit("greedy 2", 2), submit("polite", 0), submit("other", 0)]
    session.gate.set()
    for future in (first, *waiting):
        future.result(10)
    batcher.close()
    assert order == ["greedy 0", "polite", "other", "greedy 2", "greedy 1"]


def test_full_queue_refuses_immediately_with_retry_after() -> None:
    with busy_batcher(BatchingOptions(max_batch=2, queue_limit=2)) as (batcher, _, _):
        waiting = [batcher.submit(part()) for _ in range(2)]

        with pytest.raises(QueueFull) as caught:
            batcher.submit(part())

        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > 0
        assert not any(future.done() for future in waiting)


def test_image_that_waited_longer_than_the_deadline_is_dropped() -> None:
    now = [0.0]
    session = GatedSession()
    batcher = MicroBatcher(session, BatchingOptions(deadline_s=2.0), clock=lambda: now[0])
    first = batcher.submit(part())
    assert session.entered.acquire(timeout=10)
    late = batcher.submit(part())
    now[0] = 2.5
    in_time = batcher.submit(part())
    session.gate.set()

    with pytest.raises(DeadlineExceeded, match="2 s"):
        late.result(10)
    assert in_time.result(10).batch_size == 1
    assert first.result(10).infer_s == 2.5
    batcher.close()


def test_cancelled_image_is_not_inferred() -> None:
    with busy_batcher(BatchingOptions()) as (batcher, session, _):
        cancelled, kept = batcher.submit(part()), batcher.submit(part())
        assert cancelled.cancel()
        session.gate.set()
        kept.result(10)
        assert session.batches == [1, 1]


def test_closing_finishes_waiting_images_and_refuses_new_ones() -> None:
    with busy_batcher(BatchingOptions()) as (batcher, session, first):
        waiting = batcher.submit(part())
        closer = threading.Thread(target=batcher.close)
        closer.start()
        session.gate.set()
        closer.join(10)

        assert first.done()
        assert waiting.done()
        with pytest.raises(ShuttingDown):
            batcher.submit(part())


def test_closing_without_drain_refuses_waiting_images() -> None:
    with busy_batcher(BatchingOptions()) as (batcher, session, first):
        waiting = batcher.submit(part())
        closer = threading.Thread(target=lambda: batcher.close(drain=False))
        closer.start()
        with pytest.raises(ShuttingDown):
            waiting.result(10)
        session.gate.set()
        closer.join(10)
        assert first.result(10).batch_size == 1


def test_failed_batch_fails_its_images_and_the_next_one_is_inferred() -> None:
    batcher = MicroBatcher(GraphSession(MODEL, SessionOptions(provider="cpu", threads=1)))

    with pytest.raises(Exception, match="image"):
        batcher.submit(np.zeros((8, 8, 3), np.uint8)).result(10)

    assert batcher.submit(part()).result(10).batch_size == 1
    batcher.close()


def test_batches_run_at_the_same_time() -> None:
    with busy_batcher(BatchingOptions(concurrency=2)) as (batcher, session, first):
        second = batcher.submit(part(brightness=0))
        assert session.entered.acquire(timeout=10), "the second image runs while the first one does"
        waiting = batcher.submit(part())
        assert not session.entered.acquire(timeout=0.2)
        assert batcher.depth == 1
        session.gate.set()

        np.testing.assert_allclose(second.result(10).anomaly_map, 0.5)
        assert first.result(10).batch_size == waiting.result(10).batch_size == 1


def test_waiting_images_are_divided_between_the_batches() -> None:
    session = GatedSession()
    batcher = MicroBatcher(session, BatchingOptions(max_batch=4, concurrency=2))
    with batcher._changed:  # no batch starts before all images are queued
        futures = [batcher.submit(part()) for _ in range(4)]
    assert session.entered.acquire(timeout=10)
    assert session.entered.acquire(timeout=10)
    session.gate.set()

    assert [future.result(10).batch_size for future in futures] == [2, 2, 2, 2]
    batcher.close()


def test_closing_ends_all_threads() -> None:
    session = GraphSession(MODEL, SessionOptions(provider="cpu", threads=1))
    batcher = MicroBatcher(session, BatchingOptions(concurrency=3))
    futures = [batcher.submit(part()) for _ in range(9)]
    batcher.close()

    assert all(future.done() for future in futures)
    assert not any(thread.is_alive() for thread in batcher._threads)


class CountedSession(GraphSession):
    """A session that records the threads that run it."""

    def __init__(self) -> None:
        super().__init__(MODEL, SessionOptions(provider="cpu", threads=1))
        self.ran_on: list[int] = []
        self.is_closed = False

    def run(self, images: UInt8Image, *, keeps_memory: bool = True) -> GraphOutput:
        self.ran_on.append(threading.get_ident())
        return super().run(images, keeps_memory=keeps_memory)

    def close(self) -> None:
        self.is_closed = True
        super().close()


def test_image_that_need_not_wait_runs_on_the_thread_that_brings_it() -> None:
    session = CountedSession()
    batcher = MicroBatcher(session)

    result = batcher.run(part(brightness=0))

    assert session.ran_on == [threading.get_ident()]
    assert result.batch_size == 1
    assert result.queue_s == pytest.approx(0, abs=0.1)
    np.testing.assert_allclose(result.anomaly_map, 0.5)
    assert batcher.submit(part()).result(10).batch_size == 1, "it counts as running no longer"
    batcher.close()


def test_other_providers_run_on_the_thread_of_the_batcher() -> None:
    session = CountedSession()
    session.provider = "cuda"
    session.run_named = lambda images, **_: {"anomaly_map": np.zeros((len(images), 2, 2), np.float32)}  # type: ignore[method-assign]
    batcher = MicroBatcher(session)

    batcher.run(part())

    assert threading.get_ident() not in session.ran_on
    assert len(session.ran_on) == 1
    batcher.close()


def test_image_waits_while_as_many_run_as_may() -> None:
    with busy_batcher(BatchingOptions(concurrency=1)) as (batcher, session, first), ThreadPoolExecutor(2) as pool:
        second = pool.submit(batcher.run, part())
        wait_for(lambda: batcher.depth == 1)
        session.gate.set()

        assert first.result(10).batch_size == second.result(10).batch_size == 1
        assert session.batches == [1, 1]


def test_image_on_the_thread_of_its_caller_makes_others_wait() -> None:
    session = GatedSession()
    batcher = MicroBatcher(session, BatchingOptions(concurrency=1))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.run, part())
        assert session.entered.acquire(timeout=10)
        second = batcher.submit(part(brightness=0))
        assert not session.entered.acquire(timeout=0.2)
        session.gate.set()

        assert first.result(10).batch_size == 1
        np.testing.assert_allclose(second.result(10).anomaly_map, 0.5)
    batcher.close()


def test_failure_on_the_thread_of_the_caller_is_raised_there_and_the_next_image_is_inferred() -> None:
    batcher = MicroBatcher(GraphSession(MODEL, SessionOptions(provider="cpu", threads=1)))

    with pytest.raises(Exception, match="image"):
        batcher.run(np.zeros((8, 8, 3), np.uint8))

    assert batcher.run(part()).batch_size == 1
    batcher.close()
    with pytest.raises(ShuttingDown):
        batcher.run(part())


def test_closing_waits_for_an_image_on_the_thread_of_its_caller() -> None:
    session = GatedSession()
    batcher = MicroBatcher(session)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(batcher.run, part())
        assert session.entered.acquire(timeout=10)
        closing = pool.submit(batcher.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        session.gate.set()

        assert running.result(10).batch_size == 1
        closing.result(10)


def test_batches_that_do_not_run_alone_use_the_session_of_one_thread() -> None:
    session, narrow, wanted, may_open = GatedSession(), CountedSession(), threading.Event(), threading.Event()

    def open_narrow() -> GraphSession:
        wanted.set()
        assert may_open.wait(10)
        return narrow

    now = [100.0]
    batcher = MicroBatcher(session, BatchingOptions(concurrency=2), lambda: now[0], open_narrow)
    first = batcher.submit(part())
    assert session.entered.acquire(timeout=10)
    assert not wanted.is_set(), "nothing is opened for an image that runs alone"
    second = batcher.submit(part())
    assert session.entered.acquire(timeout=10), "the second one does not wait for the session to be opened"
    assert wanted.wait(10)
    may_open.set()
    wait_for(lambda: batcher._narrow is narrow)
    session.gate.set()
    assert first.result(10).batch_size == second.result(10).batch_size == 1
    session.gate.clear()

    now[0] += CONTENDED_S / 2
    soon = batcher.submit(part(brightness=0))
    np.testing.assert_allclose(soon.result(10).anomaly_map, 0.5)
    assert len(narrow.ran_on) == 1, "an image soon after those most likely has company, too"
    now[0] += 2 * CONTENDED_S
    alone = batcher.submit(part())
    assert session.entered.acquire(timeout=10)
    beside = batcher.submit(part(brightness=0))
    np.testing.assert_allclose(beside.result(10).anomaly_map, 0.5)
    assert len(narrow.ran_on) == 2
    session.gate.set()
    assert alone.result(10).batch_size == 1
    batcher.close()
    assert narrow.is_closed


def test_batch_runs_even_if_no_thread_can_open_the_session_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    session, start, attempts = GatedSession(), threading.Thread.start, []

    def start_others(thread: threading.Thread) -> None:
        if thread.name == "narrow-session":
            attempts.append(1)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    batcher = MicroBatcher(session, BatchingOptions(concurrency=2), open_narrow=lambda: session)
    first = batcher.submit(part())
    assert session.entered.acquire(timeout=10)
    second = batcher.submit(part())
    assert session.entered.acquire(timeout=10)
    session.gate.set()

    assert first.result(10).batch_size == second.result(10).batch_size == 1
    assert attempts == [1]
    batcher.close()


@pytest.mark.parametrize("failure", [None, RuntimeError("no memory")])
def test_without_the_session_of_one_thread_all_batches_share_the_other_one(failure: Exception | None) -> None:
    session = GatedSession()
    attempts: list[int] = []

    def open_narrow() -> GraphSession | None:
        attempts.append(1)
        if failure is not None:
            raise failure
        return None

    batcher = MicroBatcher(session, BatchingOptions(concurrency=2), open_narrow=open_narrow)
    futures = [batcher.submit(part()) for _ in range(6)]
    session.gate.set()

    assert [future.result(10).batch_size for future in futures]
    batcher.close()
    assert sum(session.batches) == 6
    assert len(attempts) <= 1
