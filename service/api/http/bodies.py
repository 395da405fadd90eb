"""Receiving an image: the raw body or one part of a form, in memory and never beyond the limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.api.http.errors import RequestTimeout
from service.api.http.forms import IMAGE_FIELD, MULTIPART, FormReader
from service.errors import InvalidRequest, UnsupportedMediaType
from service.inspection.decoding.decoder import MEDIA_TYPES

RAW_MEDIA_TYPES = (*MEDIA_TYPES.values(), "application/octet-stream")
MAX_PARTS = 16
ModelT = TypeVar("ModelT", bound=BaseModel)
_WRITE_BYTES = 2**20


@dataclass(frozen=True)
class Upload:
    """An image and the form fields that came with it."""

    image: bytes
    fields: Mapping[str, str] = field(default_factory=dict)


async def receive_upload(request: Request, timeout_s: float) -> Upload:
    """Read the image that a request carries.

    Args:
        request: Its body is bounded by `BodyLimit`.
        timeout_s: Seconds that the body may take.

    Raises:
        UnsupportedMediaType: The body is neither an image nor a form.
        InvalidRequest: The form is broken or holds no image, or there is no body.
        RequestTimeout: The body took too long.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.split(";")[0].strip().lower()
    if media_type != MULTIPART and media_type not in RAW_MEDIA_TYPES:
        raise UnsupportedMediaType(content_type or None, (*RAW_MEDIA_TYPES, MULTIPART))
    try:
        async with asyncio.timeout(timeout_s):
            if media_type == MULTIPART:
                return await _receive_form(request.stream(), content_type)
            body = await request.body()
    except TimeoutError as error:
        raise RequestTimeout(timeout_s) from error
    except ClientDisconnect as error:
        # Nobody reads this answer; it is made so that the request ends like every other.
        raise InvalidRequest("The client went away before its request was complete.") from error
    if not body:
        raise InvalidRequest("The request has no body. Send the encoded image as the body.")
    return Upload(body)


async def receive_json(request: Request, timeout_s: float) -> bytes:
    """Read a JSON document.

    Args:
        request: Its body is bounded by `BodyLimit`.
        timeout_s: Seconds that the body may take.

    Raises:
        RequestTimeout: The body took too long.
        InvalidRequest: The client went away.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await request.body()
    except TimeoutError as error:
        raise RequestTimeout(timeout_s) from error
    except ClientDisconnect as error:
        raise InvalidRequest("The client went away before its request was complete.") from error


def read_as(model: type[ModelT], given: bytes | Mapping[str, str], where: str) -> ModelT:
    """What the framework does with a body or a query, for routes that choose by the Content-Type what to read.

    Args:
        model: What is expected.
        given: A JSON document, or the query's parameters.
        where: "body" or "query", for the message.

    Raises:
        RequestValidationError: It is something else.
    """
    try:
        return model.model_validate_json(given) if isinstance(given, bytes) else model.model_validate(given)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError([{**item, "loc": (where, *item["loc"])} for item in errors]) from error


async def receive_file(request: Request, file: IO[bytes], timeout_s: float) -> None:
    """Write the request's body into a file, a piece at a time.

    Args:
        request: Its body is bounded by `BodyLimit`.
        file: Takes the body.
        timeout_s: Seconds that may pass without a piece. A large file may take long, a silent client not.

    Raises:
        InvalidRequest: There is no body, or the client went away.
        RequestTimeout: Nothing came for too long.
        OSError: The file does not take it.
    """
    waiting = bytearray()
    stream = aiter(request.stream())
    is_empty = True
    try:
        while True:
            async with asyncio.timeout(timeout_s):
                piece = await anext(stream, b"")
            waiting += piece
            is_empty = is_empty and not piece
            if waiting and (not piece or len(waiting) >= _WRITE_BYTES):
                await run_in_threadpool(file.write, bytes(waiting))
                waiting.clear()
            if not piece:
                break
    except TimeoutError as error:
        raise RequestTimeout(timeout_s) from error
    except ClientDisconnect as error:
        raise InvalidRequest("The client went away before its request was complete.") from error
    if is_empty:
        raise InvalidRequest("The request has no body. Send the file as the body.")


async def _receive_form(stream: AsyncIterator[bytes], content_type: str) -> Upload:
    parts: dict[str, bytearray] = {}
    async for part in FormReader(content_type, MAX_PARTS).parts(stream):
        if part.name in parts:
            raise InvalidRequest(
                f"The form has the part {part.name!r} twice. Send one image per request, or several to "
                "…/inspections:batch."
            )
        parts[part.name] = part.content
    image = parts.pop(IMAGE_FIELD, None)
    if not image:
        found = ", ".join(sorted(parts)) or "none"
        raise InvalidRequest(f"The form has no image in the field {IMAGE_FIELD!r}. Other fields: {found}.")
    try:
        fields = {name: content.decode() for name, content in parts.items()}
    except UnicodeDecodeError as error:
        raise InvalidRequest("A field of the form is not UTF-8 text.") from error
    return Upload(bytes(image), fields)
