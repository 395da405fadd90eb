"""Camera streams over a WebSocket: a camera sends frames and receives the results in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

import structlog
from fastapi import APIRouter
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.access.errors import NotPermitted
from service.access.restrictions import station_of
from service.api.deps import BodyMemoryDep, ClientDep, SettingsDep, StreamsDep
from service.api.http.access import principal_of, recheck, requires
from service.api.http.errors import InternalError, RequestTimeout
from service.api.http.middleware import incoming_traceparent
from service.api.http.problems import ProblemResponse, problem_body, request_id
from service.api.mapping import to_item
from service.errors import (
    InvalidRequest,
    MemoryBudgetExceeded,
    PlumblineError,
    StreamIdle,
)
from service.schemas.common import PartFields
from service.schemas.problem import Problem
from service.schemas.stream import (
    CLIENT_MESSAGE,
    HELLO,
    BufferFields,
    End,
    FrameMetadata,
    Hello,
    Ready,
    StreamFailure,
    StreamResult,
)
from service.schemas.violations import describe_violations, list_violations
from service.serving.batch import IN_FLIGHT, Frame, inspect_in_order
from service.serving.image import Image, StatedBuffer
from service.serving.memory_budget import MemoryBudget
from service.serving.records import PartRecord
from service.serving.streams import OpenStream, StreamService
from service.settings import Settings

log = structlog.get_logger(__name__)
router = APIRouter(tags=["inspections"])

MAX_TEXT_LENGTH = 8192
HELLO_TIMEOUT_S = 10.0
NORMAL_CLOSURE, GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR = 1000, 1001, 1008, 1011
MessageT = TypeVar("MessageT")


@router.websocket("/v1/products/{product}/stream")
@requires("inspect")
async def stream(
    websocket: WebSocket,
    product: str,
    streams: StreamsDep,
    settings: SettingsDep,
    client: ClientDep,
    memory: BodyMemoryDep,
) -> None:
    """Inspect the frames of a camera until either side ends the stream.

    If the stream cannot be opened, the response to the handshake is a problem.
    """
    name = request_id(websocket.scope)
    with structlog.contextvars.bound_contextvars(request_id=name):
        try:
            async with streams.open(product, client) as opened:
                await websocket.accept()
                await _Stream(websocket, streams, opened, product, name, settings, memory).run()
        except PlumblineError as error:
            streams.inspections.count_refusal(error, name)
            await websocket.send_denial_response(ProblemResponse(error, name))
        except WebSocketDisconnect:
            pass  # the camera disconnected; frames received before are inspected and stored


class _Stream:
    """The stream of one camera, from the first message to the close."""

    def __init__(
        self,
        websocket: WebSocket,
        streams: StreamService,
        opened: OpenStream,
        product: str,
        name: str,
        settings: Settings,
        memory: MemoryBudget,
    ) -> None:
        self._websocket = websocket
        self._inspections = streams.inspections
        self._product = product
        self._name = name
        self._traceparent = incoming_traceparent(websocket.headers)
        self._opened = opened
        self._settings = settings
        self._memory = memory
        self._hello = Hello(type="hello")
        self._draining = asyncio.ensure_future(streams.draining.wait())
        self._replaced = asyncio.ensure_future(opened.replaced.wait())
        self._receiving: asyncio.Future[bytes | str] | None = None
        self._frame_count = 0

    async def run(self) -> None:
        """Send the result of each frame; close with a code that states the reason."""
        code, sent = NORMAL_CLOSURE, 0
        try:
            await self._receive_hello()
            async with aclosing(self._frames()) as frames:
                outcomes = inspect_in_order(self._inspections, self._product, frames, self._opened.client)
                async with aclosing(outcomes):
                    async for outcome in outcomes:
                        await self._send(to_item(StreamResult, sent, outcome, f"{self._name}/{sent}"))
                        sent += 1
            code = GOING_AWAY if self._draining.done() else NORMAL_CLOSURE
        except WebSocketDisconnect:
            raise
        except PlumblineError as error:
            code = POLICY_VIOLATION
            self._inspections.count_refusal(error, self._name)
            await self._send_failure(error)
        except Exception:  # details are logged, the camera receives a problem with the stream's name
            log.exception("unexpected error", stream=self._name)
            code = INTERNAL_ERROR
            await self._send_failure(InternalError())
        finally:
            self._draining.cancel()
            self._replaced.cancel()
            if self._receiving is not None:
                self._receiving.cancel()
        await self._websocket.close(code, "the service is stopping" if code == GOING_AWAY else None)

    async def _receive_hello(self) -> None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestTimeout(HELLO_TIMEOUT_S) from error
        if message is None:
            return  # the service is stopping
        if isinstance(message, bytes):
            raise InvalidRequest('The first message is binary. Send {"type": "hello"} as a text message first.')
        self._hello = _parse(HELLO, message)
        max_frame_bytes = self._settings.max_body_bytes
        await self._send(
            Ready(stream=self._name, product=self._product, in_flight=IN_FLIGHT, max_frame_bytes=max_frame_bytes)
        )

    async def _frames(self) -> AsyncGenerator[Frame]:
        """Yield the camera's frames until it ends the stream or the service stops.

        Raises:
            InvalidRequest: A text message is not valid.
            StreamIdle: No frame arrived for too long.
            InvalidKey: The key was revoked or has expired.
            WebSocketDisconnect: The camera disconnected.
        """
        metadata = FrameMetadata(type="frame")
        while (message := await self._receive()) is not None:
            if isinstance(message, bytes):
                self._opened.record_frame()
                yield await self._frame(message, metadata)
                self._opened.record_frame()
                metadata = FrameMetadata(type="frame")
                continue
            parsed = _parse(CLIENT_MESSAGE, message)
            if isinstance(parsed, End):
                return
            metadata = parsed

    async def _receive(self) -> bytes | str | None:
        """Return the next message, or None if the service stops."""
        if self._receiving is None:
            self._receiving = asyncio.ensure_future(_receive_message(self._websocket))
        pending: set[asyncio.Future[Any]] = {self._receiving, self._draining, self._replaced}
        remaining_s = max(0.0, self._settings.stream_idle_timeout_s - self._opened.idle_s)
        await asyncio.wait(pending, timeout=remaining_s, return_when=asyncio.FIRST_COMPLETED)
        if not self._receiving.done():
            if self._draining.done():
                return None
            raise StreamIdle(round(self._opened.idle_s, 1))
        received, self._receiving = self._receiving, None
        return received.result()

    async def _frame(self, data: bytes, metadata: FrameMetadata) -> Frame:
        index, self._frame_count = self._frame_count, self._frame_count + 1
        part = _merge(self._hello.part, metadata.part)
        await recheck(self._websocket)
        try:
            station = station_of(principal_of(self._websocket), part.station)
        except NotPermitted as error:
            return Frame(Image(b"", PartRecord(request_id=f"{self._name}/{index}")), metadata.name, error)
        record = PartRecord(
            part_id=part.part_id,
            station=station,
            lot=part.lot,
            captured_at=part.captured_at,
            request_id=f"{self._name}/{index}",
            traceparent=self._traceparent,
        )
        buffer = _merge(self._hello.buffer, metadata.buffer)
        stated = StatedBuffer(buffer.pixel_format, buffer.width, buffer.height, buffer.stride)
        memory = self._memory.reserve(self._opened.client, 0)
        try:
            await memory.grow_when_free(len(data), self._settings.queue_deadline_s)
        except MemoryBudgetExceeded as error:
            return Frame(Image(b"", record), metadata.name, error)
        return Frame(Image(data, record, stated), metadata.name, memory=memory)

    async def _send_failure(self, error: PlumblineError) -> None:
        await self._send(StreamFailure(problem=Problem(**problem_body(error, self._name))))

    async def _send(self, message: BaseModel) -> None:
        await self._websocket.send_text(message.model_dump_json())


async def _receive_message(websocket: WebSocket) -> bytes | str:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    data: bytes | str | None = message.get("bytes")
    return message["text"] if data is None else data


def _parse(model: TypeAdapter[MessageT], text: str) -> MessageT:
    if len(text) > MAX_TEXT_LENGTH:
        raise InvalidRequest(
            f"A text message has more than {MAX_TEXT_LENGTH} characters. Send frames as binary messages."
        )
    try:
        return model.validate_json(text)
    except ValidationError as error:
        violations = list_violations(error, model)
        reason = f"The message does not match the stream protocol (docs/stream.md): {describe_violations(violations)}."
        raise InvalidRequest(reason, violations) from error


FieldsT = TypeVar("FieldsT", PartFields, BufferFields)


def _merge(general: FieldsT, specific: FieldsT) -> FieldsT:
    return general.model_copy(update={name: getattr(specific, name) for name in specific.model_fields_set})
