"""A camera that sends frames over a WebSocket and gets its verdicts in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from fastapi import APIRouter
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.api.answers import inspection_answer
from service.api.http.errors import InternalError, RequestTimeout
from service.api.http.problems import ProblemResponse, known_error, problem_body
from service.errors import InvalidRequest, PlumblineError, QueueFull, ShuttingDown, TooManyStreams
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
from service.serving.batch import IN_FLIGHT, Frame, Outcome, inspect_in_order
from service.serving.inspections import InspectionLine
from service.serving.records import PartRecord
from service.store.ids import new_id

log = structlog.get_logger(__name__)
router = APIRouter(tags=["inspections"])

MAX_TEXT_BYTES = 8192
MAX_HELLO_S = 10.0
DONE, GOING_AWAY, PROTOCOL_ERROR, INTERNAL_ERROR = 1000, 1001, 1008, 1011
SaidT = TypeVar("SaidT")


@router.websocket("/v1/products/{product}/stream")
async def stream(websocket: WebSocket, product: str) -> None:
    """Frames in, verdicts out, until one side ends it. A stream that cannot begin is refused with a problem."""
    line: InspectionLine = websocket.app.state.line
    name = str(new_id())
    with structlog.contextvars.bound_contextvars(request_id=name):
        try:
            if line.admission.draining:
                raise ShuttingDown
            line.registry.get(product)
            with line.streams.enter():
                await websocket.accept(headers=[(b"x-request-id", name.encode())])
                await _Conversation(websocket, line, product, name).run()
        except QueueFull:
            await _refuse(websocket, line, TooManyStreams(line.settings.max_streams), name)
        except PlumblineError as error:
            await _refuse(websocket, line, error, name)
        except WebSocketDisconnect:
            pass  # the camera is gone; what it sent is inspected and stored


async def _refuse(websocket: WebSocket, line: InspectionLine, error: PlumblineError, name: str) -> None:
    line.metrics.count_refusal(error)
    await websocket.send_denial_response(ProblemResponse(error, name))


class _Conversation:
    """One camera's stream, from its hello to the close."""

    def __init__(self, websocket: WebSocket, line: InspectionLine, product: str, name: str) -> None:
        self._websocket = websocket
        self._line = line
        self._product = product
        self._name = name
        self._hello = Hello(type="hello")
        self._drained = asyncio.ensure_future(line.admission.drained.wait())
        self._received: asyncio.Future[bytes | str] | None = None
        self._read = 0

    async def run(self) -> None:
        """Answer frame by frame; end with a close code that says why."""
        code, answered = DONE, 0
        try:
            await self._receive_hello()
            async with aclosing(self._frames()) as frames:
                outcomes = inspect_in_order(self._line, self._product, frames)
                async with aclosing(outcomes):
                    async for outcome in outcomes:
                        await self._send(self._result(answered, outcome))
                        answered += 1
            code = GOING_AWAY if self._drained.done() else DONE
        except WebSocketDisconnect:
            raise
        except PlumblineError as error:
            code = PROTOCOL_ERROR
            await self._send(StreamFailure(problem=Problem(**problem_body(error, self._name))))
        except Exception:  # the last line of defence: the camera hears of it, the log has the story
            log.exception("unforeseen failure", stream=self._name)
            code = INTERNAL_ERROR
            await self._send(StreamFailure(problem=Problem(**problem_body(InternalError(), self._name))))
        finally:
            self._drained.cancel()
            if self._received is not None:
                self._received.cancel()
        await self._websocket.close(code, "the service is stopping" if code == GOING_AWAY else None)

    async def _receive_hello(self) -> None:
        try:
            async with asyncio.timeout(MAX_HELLO_S):
                said = await self._receive()
        except TimeoutError as error:
            raise RequestTimeout(MAX_HELLO_S) from error
        if said is None:
            return  # stopping already
        if isinstance(said, bytes):
            raise InvalidRequest('The stream begins with a binary message. Send {"type": "hello"} as text first.')
        self._hello = _parse(HELLO, said)
        await self._send(
            Ready(
                stream=self._name,
                product=self._product,
                in_flight=IN_FLIGHT,
                max_frame_bytes=self._line.settings.max_body_bytes,
            )
        )

    async def _frames(self) -> AsyncGenerator[Frame]:
        """The camera's frames, until it ends the stream or the service stops.

        Raises:
            InvalidRequest: What it says is not understood.
            WebSocketDisconnect: It went away.
        """
        about = FrameMetadata(type="frame")
        while (said := await self._receive()) is not None:
            if isinstance(said, bytes):
                yield self._frame(said, about)
                about = FrameMetadata(type="frame")
                continue
            message = _parse(CLIENT_MESSAGE, said)
            if isinstance(message, End):
                return
            about = message

    async def _receive(self) -> bytes | str | None:
        """The next message; None when the service stops."""
        if self._received is None:
            self._received = asyncio.ensure_future(_message(self._websocket))
        either: set[asyncio.Future[Any]] = {self._received, self._drained}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._received.done():
            return None
        received, self._received = self._received, None
        return received.result()

    def _frame(self, data: bytes, about: FrameMetadata) -> Frame:
        index, self._read = self._read, self._read + 1
        part = _merged(self._hello.part, about.part)
        record = PartRecord(
            part_id=part.part_id,
            station=part.station,
            lot=part.lot,
            captured_at=part.captured_at,
            request_id=f"{self._name}/{index}",
        )
        frame = Frame(data, record, about.name)
        buffer = _merged(self._hello.buffer, about.buffer)
        try:
            pixels = self._line.registry.get(self._product).recipe.recipe.pixels
            layout = pixels.layout(buffer.pixel_format, buffer.width, buffer.height, buffer.stride)
        except PlumblineError as error:
            return replace(frame, data=b"", refusal=error)
        return replace(frame, layout=layout)

    def _result(self, index: int, outcome: Outcome) -> StreamResult:
        if outcome.row is not None:
            return StreamResult(index=index, name=outcome.frame.label, inspection=inspection_answer(outcome.row))
        assert outcome.error is not None
        problem = Problem(**problem_body(known_error(outcome.error), f"{self._name}/{index}"))
        return StreamResult(index=index, name=outcome.frame.label, problem=problem)

    async def _send(self, message: BaseModel) -> None:
        await self._websocket.send_text(message.model_dump_json())


async def _message(websocket: WebSocket) -> bytes | str:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    data: bytes | str | None = message.get("bytes")
    return message["text"] if data is None else data


def _parse(form: TypeAdapter[SaidT], text: str) -> SaidT:
    if len(text) > MAX_TEXT_BYTES:
        raise InvalidRequest(f"A text message has more than {MAX_TEXT_BYTES} characters. Frames are binary messages.")
    try:
        return form.validate_json(text)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        what = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in errors)
        form_text = f"The message does not have the form that docs/stream.md describes: {what}."
        raise InvalidRequest(form_text, [dict(item) for item in errors]) from error


PartT = TypeVar("PartT", PartFields, BufferFields)


def _merged(general: PartT, special: PartT) -> PartT:
    return general.model_copy(update={name: getattr(special, name) for name in special.model_fields_set})
