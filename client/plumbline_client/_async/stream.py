"""The stream of frames over a WebSocket (`docs/stream.md`)."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack

import httpx

from plumbline_client._async.concurrency import Background
from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import CameraBuffer, product_path
from plumbline_client.errors import MissingExtra, ServiceUnreachable, StreamClosed
from plumbline_client.responses import failure_reason
from plumbline_client.schemas.stream import StreamResult
from plumbline_client.stream_messages import END, NORMAL_CLOSURE, WEBSOCKET_OPTIONS, hello, parse_result, refusal


class AsyncStreamCalls(AsyncConnection):
    """The part of `AsyncClient` that streams frames."""

    async def stream(
        self,
        product: str,
        frames: AsyncIterable[bytes],
        *,
        station: str | None = None,
        lot: str | None = None,
        buffer: CameraBuffer | None = None,
    ) -> AsyncIterator[StreamResult]:
        """Send frames over one connection and yield their results, in the order of the frames.

        Frames are read and sent in the background, no faster than the service inspects them.

        Args:
            product: Name of the product that the frames show.
            frames: Encoded images or camera buffers.
            station: Station that captures the frames.
            lot: Lot or order that the parts belong to.
            buffer: Layout of the camera buffers; None if the frames are encoded images.

        Raises:
            MissingExtra: websockets is not installed; the extra `stream` installs it.
            ServiceProblem: The service refused the stream, or ended it because of what it received.
            ServiceUnreachable: The connection could not be opened.
            StreamClosed: The service is stopping, or the connection was lost. Frames without a result were not
                inspected.
        """
        try:
            from websockets.asyncio.client import connect
            from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
        except ModuleNotFoundError as error:
            raise MissingExtra("stream()", "websockets", "stream") from error
        url = f"{self._base_url}{product_path(product)}/stream".replace("http", "ws", 1)
        headers = await self._handshake_headers()
        tls = self._tls if url.startswith("wss:") else None
        failures: list[Exception] = []
        close_code: int | None = None
        async with AsyncExitStack() as stack:
            try:
                opening = connect(
                    url, ssl=tls, additional_headers=headers, open_timeout=self._timeout_s, **WEBSOCKET_OPTIONS
                )
                connection = await stack.enter_async_context(opening)
            except InvalidStatus as error:
                raise refusal(error.response.status_code, error.response.body) from error
            except (OSError, WebSocketException) as error:
                raise ServiceUnreachable(url, failure_reason(error, url)) from error

            async def send() -> None:
                try:
                    await connection.send(hello({"station": station, "lot": lot}, buffer))
                    async for frame in frames:
                        await connection.send(frame)
                    await connection.send(END)
                except ConnectionClosed:
                    pass  # the loop below receives the same and handles it
                except Exception as error:  # noqa: BLE001 - `frames` failed; raised to the reader of the results
                    failures.append(error)
                    await connection.close()

            sender = Background(send)
            try:
                while True:
                    try:
                        message = await connection.recv()
                    except ConnectionClosed as closed:
                        close_code = None if closed.rcvd is None else closed.rcvd.code
                        break
                    if (result := parse_result(message, url)) is not None:
                        yield result
            finally:
                await sender.stop()
        if failures:
            raise failures[0]
        if close_code != NORMAL_CLOSURE:
            raise StreamClosed(close_code)

    async def _handshake_headers(self) -> list[tuple[str, str]]:
        """Return the client's own headers and those that its authentication adds to a request."""
        request = httpx.Request("GET", self._base_url, headers=self._headers)
        if self._http.auth is not None:
            flow = self._http.auth.async_auth_flow(request)
            request = await anext(flow)
            await flow.aclose()
        return [(name, value) for name, value in request.headers.multi_items() if name.lower() != "host"]
