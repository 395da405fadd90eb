"""Admission limits the requests in flight and lets some wait for a while."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from service.errors import DeadlineExceeded, InvalidRequest, QueueFull, ShuttingDown
from service.serving.admission import Admission


def test_limit_is_enforced_and_restored() -> None:
    async def run() -> None:
        admission = Admission(1)
        async with admission.turn("a", 10):
            assert admission.depth == 1
            with pytest.raises(QueueFull):
                admission.check("b")
            with pytest.raises(QueueFull):
                async with admission.turn("b", 10):
                    pass
        assert admission.depth == 0
        async with admission.turn("b", 10):
            pass

    asyncio.run(run())


def test_error_inside_leaves_the_queue() -> None:
    async def run() -> int:
        admission = Admission(1)
        with pytest.raises(ValueError, match="inside"):
            async with admission.turn("a", 10):
                raise ValueError("inside")
        return admission.depth

    assert asyncio.run(run()) == 0


def test_closed_admission_refuses_and_completes_what_is_in_flight() -> None:
    async def run() -> None:
        admission = Admission(2)
        async with admission.turn("a", 10):
            admission.close()
            assert admission.is_draining
            assert admission.depth == 1
            with pytest.raises(ShuttingDown):
                async with admission.turn("a", 10):
                    pass
        assert admission.depth == 0

    asyncio.run(run())


def test_waiting_request_is_admitted_when_another_leaves() -> None:
    async def run() -> int:
        admission = Admission(1)
        leave = asyncio.Event()

        async def first() -> None:
            async with admission.turn("a", 10):
                await leave.wait()

        task = asyncio.create_task(first())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, leave.set)
        async with admission.wait(timeout_s=10):
            assert task.done()
            return admission.depth

    assert asyncio.run(run()) == 1


def test_waiting_request_gives_up_at_its_timeout() -> None:
    async def run() -> None:
        admission = Admission(1)
        async with admission.turn("a", 10), admission.wait(timeout_s=0.01):
            pass

    with pytest.raises(QueueFull):
        asyncio.run(run())


def test_waiting_requests_of_clients_take_turns() -> None:
    async def run() -> list[str]:
        admission = Admission(64, 1)
        order: list[str] = []

        async def request(client: str) -> None:
            async with admission.turn(client, 10):
                order.append(client)
                await asyncio.sleep(0)

        async with admission.turn("greedy", 10):
            tasks = [asyncio.create_task(request("greedy")) for _ in range(6)]
            await asyncio.sleep(0)
            tasks += [asyncio.create_task(request(client)) for client in ("polite", "other", "polite")]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert admission.depth == 0
        return order

    assert asyncio.run(run()) == [
        "polite",
        "other",
        "greedy",
        "polite",
        "greedy",
        "greedy",
        "greedy",
        "greedy",
        "greedy",
    ]


def test_client_with_the_largest_share_is_refused_first() -> None:
    async def run() -> tuple[list[str], list[str]]:
        admission = Admission(4, 1)
        served: list[str] = []
        refused: list[str] = []

        async def request(name: str) -> None:
            try:
                async with admission.turn(name[0], 10):
                    served.append(name)
            except QueueFull:
                refused.append(name)

        tasks = []
        async with admission.turn("a", 10):
            for name in ("a1", "a2", "a3", "a4", "b1", "c1", "b2"):
                tasks.append(asyncio.create_task(request(name)))
                await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        assert admission.depth == 0
        return served, refused

    served, refused = asyncio.run(run())
    # a4 exceeds the limit; the others replace the newest of a, which was served before.
    assert refused == ["a4", "a3", "a2", "a1"]
    assert sorted(served) == ["b1", "b2", "c1"]


def test_equal_clients_are_refused_in_turn() -> None:
    async def run() -> dict[str, int]:
        admission = Admission(4, 1)
        served = dict.fromkeys("abcdefghijkl", 0)

        async def client(name: str) -> None:
            while sum(served.values()) < 240:
                try:
                    async with admission.turn(name, 10):
                        served[name] += 1
                        await asyncio.sleep(0)
                except QueueFull:
                    await asyncio.sleep(0)  # ignores Retry-After

        await asyncio.gather(*map(client, served))
        return served

    assert min(asyncio.run(run()).values()) >= 10


@pytest.mark.parametrize("ending", ["deadline", "disconnect", "cancel"])
def test_waiting_request_that_ends_leaves_the_queue(ending: str) -> None:
    async def run() -> None:
        admission = Admission(4, 1)
        gone = asyncio.Event()

        async def disconnected() -> None:
            await gone.wait()

        async def request() -> None:
            async with admission.turn("a", 0.02 if ending == "deadline" else 10, disconnected):
                raise AssertionError("not reached")

        async with admission.turn("b", 10):
            task = asyncio.create_task(request())
            await asyncio.sleep(0.001)
            assert admission.depth == 2
            if ending == "disconnect":
                gone.set()
            if ending == "cancel":
                task.cancel()
            with pytest.raises((DeadlineExceeded, InvalidRequest, asyncio.CancelledError)):
                await task
            assert admission.depth == 1
        async with admission.turn("a", 10):
            assert admission.depth == 1

    asyncio.run(run())


def test_accepted_request_is_admitted_while_draining() -> None:
    async def run() -> None:
        admission = Admission(2, 1)
        admission.check("a")
        admission.close()
        async with admission.turn("a", 10, is_accepted=True):
            assert admission.depth == 1
        with pytest.raises(ShuttingDown):
            admission.check("a")

    asyncio.run(run())


def test_shares_of_idle_clients_are_forgotten() -> None:
    async def run() -> int:
        admission = Admission(2, 1)
        for number in range(3000):
            async with admission.turn(str(number), 10):
                pass
        return len(admission._shares)

    assert asyncio.run(run()) < 1100


def test_client_that_runs_nothing_starts_at_once_beside_a_client_that_runs_several() -> None:
    async def run() -> None:
        admission = Admission(64, 2)
        async with AsyncExitStack() as turns:
            ranks = [await turns.enter_async_context(admission.turn("greedy", 10)) for _ in range(2)]
            waiting = asyncio.create_task(turns.enter_async_context(admission.turn("greedy", 10)))
            await asyncio.sleep(0)
            assert await turns.enter_async_context(admission.turn("polite", 0)) == 0
            with pytest.raises(DeadlineExceeded):  # one place only, and only for the first request of a client
                await turns.enter_async_context(admission.turn("polite", 0))
            with pytest.raises(DeadlineExceeded):
                await turns.enter_async_context(admission.turn("other", 0))
            assert ranks == [0, 1]
            waiting.cancel()

    asyncio.run(run())


def test_clients_that_run_one_request_each_do_not_exceed_the_limit_of_running_ones() -> None:
    async def run() -> None:
        admission = Admission(64, 2)
        async with admission.turn("a", 10), admission.turn("b", 10):
            with pytest.raises(DeadlineExceeded):
                async with admission.turn("c", 0):
                    pass

    asyncio.run(run())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_burst_fills_the_queue_but_a_lasting_overload_keeps_it_short() -> None:
    async def run() -> None:
        clock = Clock()
        admission = Admission(20, 2, clock)

        async def request() -> None:
            async with admission.turn("a", 60):
                await leave.wait()

        leave = asyncio.Event()
        burst = [asyncio.create_task(request()) for _ in range(20)]
        await asyncio.sleep(0)
        assert admission.depth == 20
        burst.pop().cancel()
        await asyncio.sleep(0.001)
        admission.check("a")  # a burst may use the whole queue
        clock.now += 1.1
        with pytest.raises(QueueFull) as caught:
            admission.check("a")
        assert caught.value.extensions["limit"] == 6
        leave.set()
        await asyncio.gather(*burst)

        leave.clear()
        tasks = [asyncio.create_task(request()) for _ in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):  # the queue was empty for a moment only
            admission.check("a")
        leave.set()
        await asyncio.gather(*tasks)
        clock.now += 0.3
        leave.clear()
        tasks = [asyncio.create_task(request()) for _ in range(7)]
        await asyncio.sleep(0)
        assert admission.depth == 7
        leave.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_refusals_of_a_client_that_sends_again_at_once_are_held_until_the_service_stops() -> None:
    async def run() -> None:
        admission = Admission(1)
        async with admission.turn("a", 10):
            refusals: list[QueueFull] = []
            for _ in range(40):
                with pytest.raises(QueueFull) as caught:
                    admission.check("b")
                refusals.append(caught.value)
            assert refusals[-1].hold_s > 0.5
            started = time.perf_counter()
            asyncio.get_running_loop().call_later(0.01, admission.close)
            await admission.hold(refusals[-1])
            await admission.hold(refusals[-1])
            assert time.perf_counter() - started < 0.4

    asyncio.run(run())
