"""Options, retries and errors of the sync and the async client, without a service."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from plumbline_client import (
    AsyncClient,
    Client,
    MissingExtra,
    PlumblineClientError,
    ServiceProblem,
    UnexpectedResponse,
)
from plumbline_client._async import concurrency as async_concurrency
from plumbline_client._sync import concurrency as sync_concurrency
from tests.client.calls import URL, Handler, call


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def full(**stated: Any) -> Handler:
    """A service that never has capacity, and states when to try again."""
    problem = {"type": "/problems#queue-full", "detail": "The queue is full."} | stated.pop("problem", {})
    return lambda _: httpx.Response(503, json=problem, **stated)


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (full(problem={"retry_after": 0.2}, headers={"retry-after": "1"}), [0.2, 0.2]),
        (full(headers={"retry-after": "7"}), [7, 7]),
        (full(headers={"retry-after": "30"}), [30, 30]),
        (full(headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), [1, 1]),
        (full(headers={"retry-after": "-3"}), [0, 0]),
    ],
)
def test_request_is_sent_again_after_the_stated_time(
    is_async: bool, pauses: list[float], handler: Handler, expected: list[float]
) -> None:
    with pytest.raises(ServiceProblem) as caught:
        call(is_async, URL, "products", handler=handler, retries=2)
    assert (caught.value.status, caught.value.slug) == (503, "queue-full")
    assert pauses == expected


def test_503_of_the_service_without_a_time_is_raised_at_once(is_async: bool, pauses: list[float]) -> None:
    problem = {"type": "/problems#product-not-ready", "detail": "Its bundle is broken."}
    with pytest.raises(ServiceProblem, match="product-not-ready"):
        call(is_async, URL, "products", handler=full(problem=problem))
    assert pauses == []


@pytest.mark.parametrize("text", ["<html>Service Unavailable</html>", "", '{"message": "no backend"}'])
def test_503_of_a_proxy_without_a_time_is_sent_again(is_async: bool, pauses: list[float], text: str) -> None:
    with pytest.raises(ServiceProblem, match="unknown"):
        call(is_async, URL, "products", handler=lambda _: httpx.Response(503, text=text), retries=2)
    assert pauses == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("stated", ["3600", "31", "inf"])
def test_longer_pause_than_the_limit_is_raised_at_once(is_async: bool, pauses: list[float], stated: str) -> None:
    with pytest.raises(ServiceProblem, match="queue-full"):
        call(is_async, URL, "products", handler=full(headers={"retry-after": stated}))
    with pytest.raises(ServiceProblem):
        call(is_async, URL, "products", handler=full(headers={"retry-after": "2"}), max_retry_after_s=1.5)
    assert pauses == []
    options = {"max_retry_after_s": 4000, "retries": 1}
    with pytest.raises(ServiceProblem):
        call(is_async, URL, "products", handler=full(headers={"retry-after": "3600"}), **options)
    assert pauses == [3600]


def respond_with(status: int) -> Handler:
    return lambda _: httpx.Response(status)


def test_nothing_but_a_503_is_sent_again(is_async: bool, pauses: list[float]) -> None:
    for status in (302, 404, 429, 500, 502, 504):
        with pytest.raises(ServiceProblem) as caught:
            call(is_async, URL, "products", handler=respond_with(status))
        assert (caught.value.status, caught.value.slug) == (status, "unknown")
    assert pauses == []


@pytest.mark.parametrize(
    ("problem_type", "slug"),
    [
        ("/problems#queue-full", "queue-full"),
        ("https://host/problems#queue-full", "queue-full"),
        ("urn:plumbline:problem:queue-full", "queue-full"),
        ("", "unknown"),
    ],
)
def test_slug_is_the_last_part_of_the_type(problem_type: str, slug: str) -> None:
    assert ServiceProblem(503, {"type": problem_type}).slug == slug


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "", "http://host:port", "/v1"])
def test_base_url_that_is_no_url_is_refused(url: str) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(ValueError, match="URL"):
            client(url)


def test_request_that_no_url_can_express_raises_no_error_of_httpx(is_async: bool) -> None:
    with pytest.raises(ValueError, match="URL"):
        call(is_async, URL, "product", "x" * 70_000, handler=full())


def echo(request: httpx.Request) -> httpx.Response:
    """Refuse the request with its headers and its URL."""
    return httpx.Response(418, json={"detail": "", "headers": dict(request.headers), "url": str(request.url)})


def sent(is_async: bool, url: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    with pytest.raises(ServiceProblem) as caught:
        call(is_async, url, *arguments, handler=echo, **options)
    return caught.value.problem


def test_headers_are_sent_with_every_request(is_async: bool) -> None:
    options = {"headers": {"X-Station": "A2"}}
    assert sent(is_async, URL, "products", **options)["headers"]["x-station"] == "A2"
    assert sent(is_async, URL, "inspect", "widget", b"x", **options)["headers"]["x-station"] == "A2"


class Token(httpx.Auth):
    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["authorization"] = "Bearer token"
        yield request


def test_authentication_is_sent_with_every_request(is_async: bool) -> None:
    basic = "Basic dXNlcjpzZWNyZXQ="
    assert sent(is_async, URL, "products", auth=("user", "secret"))["headers"]["authorization"] == basic
    assert sent(is_async, URL, "products", auth=Token())["headers"]["authorization"] == "Bearer token"
    in_url = sent(is_async, "http://user:secret@plumbline/prefix/", "products")
    assert in_url["headers"]["authorization"] == basic
    assert in_url["url"] == "http://plumbline/prefix/v1/products"


def test_names_are_quoted_in_paths(is_async: bool) -> None:
    assert sent(is_async, URL, "product", "a/b?c d")["url"] == f"{URL}/v1/products/a%2Fb%3Fc%20d"


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"<html>Sign in</html>", b"[]", b'{"items": [{"product": 1}]}', b""])
def test_response_of_another_server_is_unexpected(is_async: bool, content: bytes) -> None:
    handler: Handler = lambda _: httpx.Response(200, content=content)  # noqa: E731
    for method, *arguments in (("products",), ("readiness",), ("anomaly_map", "id"), ("inspect", "widget", b"x")):
        with pytest.raises(UnexpectedResponse, match="http://plumbline/") as caught:
            call(is_async, URL, method, *arguments, handler=handler)
        assert isinstance(caught.value, PlumblineClientError)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>", "the body is not a complete array in NumPy's .npy format"),
        (_npy(np.zeros((4, 4), np.float32))[:-9], "the body is not a complete array in NumPy's .npy format"),
        (_npy(np.zeros((4, 4), np.float32)).replace(b"descr", b"d(scr"), "the body is not a complete array"),
        (_npy(np.zeros((4, 4), np.int64)), "the array is int64 with 2 axes, expected float32 with 2 axes"),
    ],
)
def test_damaged_map_is_explained_without_the_text_of_numpy(is_async: bool, content: bytes, reason: str) -> None:
    with pytest.raises(UnexpectedResponse, match=re.escape(reason)) as caught:
        call(is_async, URL, "anomaly_map", "id", handler=lambda _: httpx.Response(200, content=content))
    assert not re.search("pickle|magic|cannot reshape|EOF|read_array", str(caught.value))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>", "the body: is not valid JSON at line 1, column 1"),
        (b'{"items": [{"product": 1}]}', "items.0.product: is a number, expected text"),
        (b"[]", "the body: is a list, expected an object"),
    ],
)
def test_body_of_another_form_is_explained(is_async: bool, content: bytes, reason: str) -> None:
    with pytest.raises(UnexpectedResponse, match=re.escape(reason)):
        call(is_async, URL, "products", handler=lambda _: httpx.Response(200, content=content))


def test_readiness_is_read_from_a_503_and_never_sent_again(is_async: bool, pauses: list[float]) -> None:
    body = {"status": "not-ready", "reasons": ["r"], "products": [], "broken_bundles": [], "version": "1"}
    ready = call(is_async, URL, "readiness", handler=lambda _: httpx.Response(503, json=body))
    assert (ready.status, ready.reasons) == ("not-ready", ["r"])
    with pytest.raises(ServiceProblem, match="Bad Gateway"):
        call(is_async, URL, "readiness", handler=lambda _: httpx.Response(502, text="Bad Gateway"))
    assert pauses == []


def test_batch_and_proposal_take_paths_and_pairs(is_async: bool, tmp_path: Path) -> None:
    (tmp_path / "left.png").write_bytes(b"LEFT")
    images = [tmp_path / "left.png", str(tmp_path / "left.png"), ("right.png", b"RIGHT")]
    bodies: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200, json={"items": [], "counts": {}})

    call(is_async, URL, "inspect_batch", "widget", images, handler=handler)
    with pytest.raises(UnexpectedResponse):
        propose(is_async, images, handler)
    for body in bodies:
        assert [body.count(part) for part in (b'filename="left.png"', b"LEFT", b'filename="right.png"', b"RIGHT")] == [
            2, 2, 1, 1,
        ]  # fmt: skip
    with pytest.raises(FileNotFoundError):
        call(is_async, URL, "inspect_batch", "widget", [tmp_path / "none.png"], handler=handler)


def propose(is_async: bool, images: Any, handler: Handler) -> None:
    options: dict[str, Any] = {"author": "a", "target_false_reject_rate": 0.1, "images": images}
    if not is_async:
        with Client(URL, transport=httpx.MockTransport(handler)) as plumbline:
            plumbline.propose_thresholds("widget", **options)
        return

    async def run() -> None:
        async with AsyncClient(URL, transport=httpx.MockTransport(handler)) as plumbline:
            await plumbline.propose_thresholds("widget", **options)

    asyncio.run(run())


@pytest.mark.parametrize(("module", "extra"), [("numpy", "numpy"), ("websockets.exceptions", "stream")])
def test_missing_extra_is_named(is_async: bool, monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    uses: dict[str, Callable[[], Any]] = {
        "numpy": lambda: call(is_async, URL, "anomaly_map", "id"),
        "stream": lambda: first_of_stream(is_async),
    }
    with pytest.raises(MissingExtra, match=rf"pip install '\./client\[{extra}\]'") as caught:
        uses[extra]()
    assert isinstance(caught.value, PlumblineClientError)
    assert isinstance(caught.value, ImportError)


def first_of_stream(is_async: bool) -> None:
    if not is_async:
        with Client(URL) as plumbline:
            next(plumbline.stream("widget", []))
        return

    async def run() -> None:
        async def frames() -> Any:
            yield b""

        async with AsyncClient(URL) as plumbline:
            await anext(plumbline.stream("widget", frames()))

    asyncio.run(run())


def test_both_sides_offer_the_same() -> None:
    sync_names = {name for name in dir(Client) if not name.startswith("_")}
    assert {name for name in dir(AsyncClient) if not name.startswith("_")} == sync_names - {"close"} | {"aclose"}
    names = [{name for name in vars(side) if name[0] != "_"} for side in (sync_concurrency, async_concurrency)]
    own = {"sleep", "run_blocking", "Background"}
    assert [found & own for found in names] == [own, own]


def test_problem_keeps_the_whole_document() -> None:
    document = {"type": "/problems#recipe-conflict", "detail": "d", "revision": 2}
    problem = ServiceProblem.of(httpx.Response(409, content=json.dumps(document)))
    assert (problem.slug, problem.detail, problem.problem) == ("recipe-conflict", "d", document)
