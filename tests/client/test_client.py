"""The client against a running service."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest

from plumbline_client import AsyncClient, Client, ServiceProblem
from tests.running_service import BAD, GOOD, RunningService, Serve


def test_client_gets_typed_results(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}") as line:
        taken = datetime(2026, 1, 1, tzinfo=UTC)
        verdict = line.inspect("widget", BAD, part_id="7", station="s", lot="l", captured_at=taken)
        assert (verdict.decision, verdict.part_id, verdict.captured_at) == ("fail", "7", taken)
        assert line.inspection(verdict.id) == verdict
        assert line.image(verdict.id) == BAD
        assert line.heatmap(verdict.id, "png").startswith(b"\x89PNG")
        assert line.anomaly_map(verdict.id).dtype == np.float32
        assert [product.product for product in line.products()] == ["widget"]
        assert line.product("widget").status == "ready"
        assert line.readiness().status == "ready"
        changed = line.change_recipe("widget", author="a", reason="b", target_false_reject_rate=0.1)
        assert line.recipe("widget") == changed
        assert [record.revision for record in line.recipe_history("widget")] == [2, 1]
        changed = line.change_recipe("widget", author="a", reason="b", parts={"heatmap": {"high": 0.5}})
        assert changed.recipe.heatmap.high == 0.5
        for _ in range(3):
            line.inspect("widget", GOOD, part_id="pages")
        assert len(list(line.inspections(part_id="pages", page_size=2))) == 3


def test_async_client_gets_typed_results(serve: Serve) -> None:
    async def talk(port: int) -> None:
        async with AsyncClient(f"http://127.0.0.1:{port}") as line:
            verdicts = await asyncio.gather(*(line.inspect("widget", BAD) for _ in range(8)))
            assert {verdict.decision for verdict in verdicts} == {"fail"}
            first = verdicts[0]
            assert await line.inspection(first.id) == first
            assert await line.image(first.id) == BAD
            assert (await line.heatmap(first.id, "webp"))[:4] == b"RIFF"
            assert (await line.anomaly_map(first.id)).shape == (16, 16)
            assert len([item async for item in line.inspections(page_size=3)]) == 8
            assert (await line.products())[0] == await line.product("widget")
            changed = await line.change_recipe("widget", author="a", reason="b", fail_threshold=9, review_threshold=8)
            assert await line.recipe("widget") == changed
            assert (await line.recipe_history("widget"))[0] == changed
            assert (await line.readiness()).products == ["widget"]
            with pytest.raises(ServiceProblem, match="unknown-product"):
                await line.inspect("ghost", GOOD)

    with serve() as service:
        asyncio.run(talk(service.port))


def test_problem_becomes_an_exception_that_carries_it(service: RunningService) -> None:
    with Client(f"http://127.0.0.1:{service.port}") as line, pytest.raises(ServiceProblem) as caught:
        line.inspect("ghost", GOOD)
    assert (caught.value.status, caught.value.slug) == (404, "unknown-product")
    assert caught.value.problem["known"] == ["widget"]
    assert "widget" in caught.value.detail


def test_client_comes_back_when_the_house_was_full(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service:
        place = service.line.admission.enter()
        place.__enter__()
        threading.Timer(0.3, lambda: place.__exit__(None, None, None)).start()
        started = time.monotonic()
        with Client(f"http://127.0.0.1:{service.port}", retries=50) as line:
            assert line.inspect("widget", GOOD).decision == "pass"
        assert time.monotonic() - started >= 0.2


def test_client_gives_up_after_its_retries(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service, service.line.admission.enter():
        with Client(f"http://127.0.0.1:{service.port}", retries=2) as line, pytest.raises(ServiceProblem) as caught:
            line.inspect("widget", GOOD)
        assert caught.value.slug == "queue-full"
        assert 'inspection_shed_total{reason="queue_full"} 3.0' in service.client.get("/metrics").text


def test_answer_of_a_proxy_is_a_problem_too() -> None:
    # A stranger between client and service, not the service.
    transport = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>Bad Gateway</html>"))
    with Client("http://line", transport=transport) as line, pytest.raises(ServiceProblem) as caught:
        line.products()
    assert (caught.value.status, caught.value.slug) == (502, "unknown")
    assert "Bad Gateway" in caught.value.detail
