"""Receive request bodies: an image, a JSON document or a file. Images are kept in memory and never exceed the limit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.api.http.forms import IMAGE_FIELD, MULTIPART, FormReader
from service.api.http.problems import BodyLimitExceeded
from service.errors import InvalidRequest, UnsupportedMediaType
from service.inspection.decoding.formats import MEDIA_TYPES

RAW_MEDIA_TYPES = (*MEDIA_TYPES, "application/octet-stream")
MAX_PARTS = 16
_ANY_IMAGE = "image/*"  # the format is detected from the content, so other names such as image/jpg do no harm
ModelT = TypeVar("ModelT", bound=BaseModel)
_WRITE_BYTES = 2**20
_DISCONNECTED = "The client closed the connection before the request was complete."


@dataclass(frozen=True)
class Upload:
    """An image and the other fields of its form.

    Attributes:
        image: The encoded image or camera buffer.
        fields: Text of the other form fields, by name.
    """

    image: bytes
    fields: Mapping[str, str] = field(default_factory=dict)


def require_media_type(request: Request, accepted: Sequence[str]) -> str:
    """Return the media type of the request's body.

    Args:
        request: The request.
        accepted: Media types that the route accepts, in lower case; `image/*` accepts every type of images.

    Raises:
        UnsupportedMediaType: The route does not accept the media type.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.split(";")[0].strip().lower()
    if media_type not in accepted and f"{media_type.split('/')[0]}/*" not in accepted:
        raise UnsupportedMediaType(content_type or None, accepted)
    return media_type


async def receive_upload(request: Request) -> Upload:
    """Receive the image of a request, sent as the body or in a form.

    Args:
        request: The request; `BodyLimitMiddleware` bounds its body in size and time.

    Raises:
        UnsupportedMediaType: The body is neither an image nor a form.
        InvalidRequest: The form is malformed or has no image, or there is no body.
        BodyTooLarge, RequestTimeout, BodyTooSlow, MemoryBudgetExceeded: The body exceeds a limit.
    """
    media_type = require_media_type(request, (*RAW_MEDIA_TYPES, _ANY_IMAGE, MULTIPART))
    try:
        if media_type == MULTIPART:
            return await _receive_form(request.stream(), request.headers["content-type"])
        body = await request.body()
    except BodyLimitExceeded as error:
        raise error.problem from error
    except ClientDisconnect as error:
        # No client receives this response; raising it makes the request end like every other one.
        raise InvalidRequest(_DISCONNECTED) from error
    if not body:
        raise InvalidRequest("The request has no body. Send the encoded image as the body.")
    return Upload(body)


async def receive_json(request: Request) -> bytes:
    """Receive a JSON document.

    Args:
        request: The request; `BodyLimitMiddleware` bounds its body in size and time.

    Raises:
        BodyTooLarge, RequestTimeout, BodyTooSlow, MemoryBudgetExceeded: The body exceeds a limit.
        InvalidRequest: The client closed the connection.
    """
    try:
        return await request.body()
    except BodyLimitExceeded as error:
        raise error.problem from error
    except ClientDisconnect as error:
        raise InvalidRequest(_DISCONNECTED) from error


def validate_as(model: type[ModelT], given: bytes | Mapping[str, str], location: str) -> ModelT:
    """Validate a body or a query as FastAPI does, for routes that choose the model by the media type of the body.

    Args:
        model: The expected model.
        given: A JSON document, or the query parameters.
        location: "body" or "query", for the error message.

    Raises:
        RequestValidationError: The data does not match the model.
    """
    try:
        return model.model_validate_json(given) if isinstance(given, bytes) else model.model_validate(given)
    except ValidationError as error:
        items = error.errors(include_url=False)
        raise RequestValidationError([{**item, "loc": (location, *item["loc"])} for item in items]) from error


async def receive_file(request: Request, file: IO[bytes]) -> None:
    """Write the request's body into a file, chunk by chunk.

    Args:
        request: The request; `BodyLimitMiddleware` bounds its body in size and time.
        file: Receives the body.

    Raises:
        InvalidRequest: There is no body, or the client closed the connection.
        BodyLimitExceeded: The body exceeds a limit.
        OSError: The file cannot be written.
    """
    buffered = bytearray()
    is_empty = True
    try:
        async for chunk in request.stream():
            buffered += chunk
            is_empty = is_empty and not chunk
            if len(buffered) >= _WRITE_BYTES:
                await run_in_threadpool(file.write, bytes(buffered))
                buffered.clear()
        await run_in_threadpool(file.write, bytes(buffered))
    except ClientDisconnect as error:
        raise InvalidRequest(_DISCONNECTED) from error
    if is_empty:
        raise InvalidRequest("The request has no body. Send the file as the body.")


async def _receive_form(stream: AsyncIterator[bytes], content_type: str) -> Upload:
    parts: dict[str, bytearray] = {}
    async for part in FormReader(content_type, MAX_PARTS).parts(stream):
        if part.name in parts:
            raise InvalidRequest(
                f"The form has the field {part.name!r} twice. Send one image per request, or several images to "
                "/v1/products/{product}/inspections:batch."
            )
        parts[part.name] = part.content
    image = parts.pop(IMAGE_FIELD, None)
    if not image:
        found = ", ".join(sorted(parts)) or "none"
        raise InvalidRequest(f"The form has no image in the field {IMAGE_FIELD!r}. Other fields: {found}.")
    try:
        fields = {name: content.decode() for name, content in parts.items()}
    except UnicodeDecodeError as error:
        raise InvalidRequest("A form field is not UTF-8 text.") from error
    return Upload(bytes(image), fields)
