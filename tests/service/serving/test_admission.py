"""Admission limits the requests in flight and lets some wait for a while."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import QueueFull, ShuttingDown
from service.serving.admission import Admission


def test_limit_is_enforced_and_restored() -> None:
    admission = Admission(1)
    with admission.enter():
        assert admission.depth == 1
        with pytest.raises(QueueFull), admission.enter():
            pass
    assert admission.depth == 0
    with admission.enter():
        pass


def test_error_inside_leaves_the_queue() -> None:
    admission = Admission(1)
    with pytest.raises(ValueError, match="inside"), admission.enter():
        raise ValueError("inside")
    assert admission.depth == 0


def test_closed_admission_refuses_and_completes_what_is_in_flight() -> None:
    admission = Admission(2)
    with admission.enter():
        admission.close()
        assert admission.is_draining
        assert admission.depth == 1
        with pytest.raises(ShuttingDown), admission.enter():
            pass
    assert admission.depth == 0


def test_waiting_request_is_admitted_when_another_leaves() -> None:
    async def run() -> int:
        admission = Admission(1)
        entered = admission.enter()
        entered.__enter__()
        asyncio.get_running_loop().call_later(0.01, entered.__exit__, None, None, None)
        async with admission.wait(timeout_s=10):
            return admission.depth

    assert asyncio.run(run()) == 1


def test_waiting_request_gives_up_at_its_timeout() -> None:
    async def run() -> None:
        admission = Admission(1)
        with admission.enter():
            async with admission.wait(timeout_s=0.01):
                pass

    with pytest.raises(QueueFull):
        asyncio.run(run())
