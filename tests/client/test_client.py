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


@pytest.mark.slow
def test_client_gets_typed_results(serve: Serve) -> None:
    with serve() as service, Client(f"http://127.0.0.1:{service.port}") as plumbline:
        taken = datetime(2026, 1, 1, tzinfo=UTC)
        verdict = plumbline.inspect("widget", BAD, part_id="7", station="s", lot="l", captured_at=taken)
        assert (verdict.decision, verdict.part_id, verdict.captured_at) == ("fail", "7", taken)
        assert plumbline.inspection(verdict.id) == verdict
        assert plumbline.image(verdict.id) == BAD
        assert plumbline.heatmap(verdict.id, "png").startswith(b"\x89PNG")
        assert plumbline.preview(verdict.id).startswith(b"\xff\xd8")
        assert plumbline.preview(verdict.id, "overlay", max_side=64).startswith(b"\x89PNG")
        assert plumbline.anomaly_map(verdict.id).dtype == np.float32
        assert [product.product for product in plumbline.products()] == ["widget"]
        assert plumbline.product("widget").status == "ready"
        assert plumbline.readiness().status == "ready"
        changed = plumbline.change_recipe("widget", author="a", reason="b", target_false_reject_rate=0.1)
        assert plumbline.recipe("widget") == changed
        assert [record.revision for record in plumbline.recipe_history("widget")] == [2, 1]
        changed = plumbline.change_recipe("widget", author="a", reason="b", parts={"heatmap": {"high": 0.5}})
        assert changed.recipe.heatmap.high == 0.5
        for _ in range(3):
            plumbline.inspect("widget", GOOD, part_id="pages")
        assert len(list(plumbline.inspections(part_id="pages", page_size=2))) == 3


@pytest.mark.slow
def test_async_client_gets_typed_results(serve: Serve) -> None:
    async def talk(port: int) -> None:
        async with AsyncClient(f"http://127.0.0.1:{port}") as plumbline:
            verdicts = await asyncio.gather(*(plumbline.inspect("widget", BAD) for _ in range(8)))
            assert {verdict.decision for verdict in verdicts} == {"fail"}
            first = verdicts[0]
            assert await plumbline.inspection(first.id) == first
            assert await plumbline.image(first.id) == BAD
            assert (await plumbline.heatmap(first.id, "webp"))[:4] == b"RIFF"
            assert (await plumbline.anomaly_map(first.id)).shape == (16, 16)
            assert len([item async for item in plumbline.inspections(page_size=3)]) == 8
            assert (await plumbline.products())[0] == await plumbline.product("widget")
            changed = await plumbline.change_recipe(
                "widget", author="a", reason="b", fail_threshold=9, review_threshold=8
            )
            assert await plumbline.recipe("widget") == changed
            assert (await plumbline.recipe_history("widget"))[0] == changed
            assert (await plumbline.readiness()).products == ["widget"]
            with pytest.raises(ServiceProblem, match="unknown-product"):
                await plumbline.inspect("ghost", GOOD)

    with serve() as service:
        asyncio.run(talk(service.port))


def test_problem_becomes_an_exception_that_carries_it(service: RunningService) -> None:
    with Client(f"http://127.0.0.1:{service.port}") as plumbline, pytest.raises(ServiceProblem) as caught:
        plumbline.inspect("ghost", GOOD)
    assert (caught.value.status, caught.value.slug) == (404, "unknown-product")
    assert caught.value.problem["known"] == ["widget"]
    assert "widget" in caught.value.detail


@pytest.mark.slow
def test_client_tries_again_when_the_queue_was_full(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service:
        place = service.occupied()
        place.__enter__()
        threading.Timer(0.3, place.__exit__, (None, None, None)).start()
        started = time.monotonic()
        with Client(f"http://127.0.0.1:{service.port}", retries=50) as plumbline:
            assert plumbline.inspect("widget", GOOD).decision == "pass"
        assert time.monotonic() - started >= 0.2


@pytest.mark.slow
def test_client_gives_up_after_its_retries(serve: Serve) -> None:
    with serve(queue_limit=1, max_batch=1) as service, service.occupied():
        with (
            Client(f"http://127.0.0.1:{service.port}", retries=2) as plumbline,
            pytest.raises(ServiceProblem) as caught,
        ):
            plumbline.inspect("widget", GOOD)
        assert caught.value.slug == "queue-full"
        assert 'inspection_shed_total{reason="queue_full"} 3.0' in service.client.get("/metrics").text


def test_response_of_a_proxy_becomes_a_problem() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>Bad Gateway</html>"))
    with Client("http://plumbline", transport=transport) as plumbline, pytest.raises(ServiceProblem) as caught:
        plumbline.products()
    assert (caught.value.status, caught.value.slug) == (502, "unknown")
    assert "Bad Gateway" in caught.value.detail
