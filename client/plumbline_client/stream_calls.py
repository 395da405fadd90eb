"""A camera's side of the stream (`docs/stream.md`), for the sync and the async client."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict
from typing import Any

from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_sync

from plumbline_client.calls import CameraBuffer
from plumbline_client.errors import ServiceProblem, StreamClosed
from plumbline_client.schemas.stream import TOLD, Ready, StreamFailure, StreamResult

NORMAL = 1000
_END = json.dumps({"type": "end"})
# An answer is some kilobytes of JSON. Frames are images already, so nobody compresses them again.
_OPTIONS: Mapping[str, Any] = {"max_size": 2**24, "compression": None}


def _address(base_url: str, product: str) -> str:
    return f"ws{base_url.removeprefix('http').rstrip('/')}/v1/products/{product}/stream"


def _hello(about: Mapping[str, str | None], buffer: CameraBuffer | None) -> str:
    part = {name: value for name, value in about.items() if value is not None}
    layout = {} if buffer is None else {name: value for name, value in asdict(buffer).items() if value is not None}
    return json.dumps({"type": "hello", "part": part, "buffer": layout})


def _result(message: str | bytes) -> StreamResult | None:
    told = TOLD.validate_json(message)
    if isinstance(told, StreamFailure):
        raise ServiceProblem(told.problem.status, told.problem.model_dump())
    return None if isinstance(told, Ready) else told


def _refusal(error: InvalidStatus) -> ServiceProblem:
    try:
        problem = json.loads(error.response.body or b"")
    except ValueError:
        problem = {}
    return ServiceProblem(error.response.status_code, problem if isinstance(problem, dict) else {})


class StreamCalls:
    """The part of `Client` that streams."""

    @property
    def _base_url(self) -> str:
        raise NotImplementedError

    def stream(
        self,
        product: str,
        frames: Iterable[bytes],
        *,
        station: str | None = None,
        lot: str | None = None,
        buffer: CameraBuffer | None = None,
    ) -> Iterator[StreamResult]:
        """Send frames as the service takes them; yield what became of each, in their order.

        Args:
            product: What the frames show.
            frames: Encoded images or camera buffers. Consumed by another thread, no faster than they are inspected.
            station: Where the frames are taken.
            lot: Lot or order that the parts belong to.
            buffer: The layout of camera buffers; None where frames are encoded images.

        Raises:
            ServiceProblem: The stream was refused, or broken off because of what was sent.
            StreamClosed: The service stops; frames without a result were not inspected.
        """
        failed: list[Exception] = []
        code: int | None = None
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(connect_sync(_address(self._base_url, product), **_OPTIONS))
            except InvalidStatus as error:
                raise _refusal(error) from error

            def send() -> None:
                try:
                    connection.send(_hello({"station": station, "lot": lot}, buffer))
                    for frame in frames:
                        connection.send(frame)
                    connection.send(_END)
                except ConnectionClosed:
                    pass  # whoever reads hears of it
                except Exception as error:  # noqa: BLE001 - the source of frames failed; raised where results are read
                    failed.append(error)
                    connection.close()

            threading.Thread(target=send, name="stream-sender", daemon=True).start()
            try:
                while True:
                    if (result := _result(connection.recv())) is not None:
                        yield result
            except ConnectionClosed as closed:
                code = None if closed.rcvd is None else closed.rcvd.code
        if failed:
            raise failed[0]
        if code != NORMAL:
            raise StreamClosed(code)


class AsyncStreamCalls:
    """The part of `AsyncClient` that streams."""

    @property
    def _base_url(self) -> str:
        raise NotImplementedError

    async def stream(
        self,
        product: str,
        frames: AsyncIterable[bytes],
        *,
        station: str | None = None,
        lot: str | None = None,
        buffer: CameraBuffer | None = None,
    ) -> AsyncIterator[StreamResult]:
        """As `Client.stream`."""
        failed: list[Exception] = []
        code: int | None = None
        async with AsyncExitStack() as stack:
            try:
                opening = connect_async(_address(self._base_url, product), **_OPTIONS)
                connection = await stack.enter_async_context(opening)
            except InvalidStatus as error:
                raise _refusal(error) from error

            async def send() -> None:
                try:
                    await connection.send(_hello({"station": station, "lot": lot}, buffer))
                    async for frame in frames:
                        await connection.send(frame)
                    await connection.send(_END)
                except ConnectionClosed:
                    pass  # whoever reads hears of it
                except Exception as error:  # noqa: BLE001 - the source of frames failed; raised where results are read
                    failed.append(error)
                    await connection.close()

            sender = asyncio.create_task(send())
            try:
                while True:
                    if (result := _result(await connection.recv())) is not None:
                        yield result
            except ConnectionClosed as closed:
                code = None if closed.rcvd is None else closed.rcvd.code
            finally:
                sender.cancel()
        if failed:
            raise failed[0]
        if code != NORMAL:
            raise StreamClosed(code)
