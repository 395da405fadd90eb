"""Receiving a picture: the raw body or one part of a form, in memory and never beyond the limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.api.errors import RequestTimeout
from service.errors import InvalidRequest, UnsupportedMediaType
from service.inspection.imaging import MEDIA_TYPES

MULTIPART = "multipart/form-data"
RAW_MEDIA_TYPES = (*MEDIA_TYPES.values(), "application/octet-stream")
IMAGE_FIELD = "image"
MAX_PARTS = 16
MAX_HEADER_BYTES = 2048
MAX_FIELD_BYTES = 1024
_WRITE_BYTES = 2**20


@dataclass(frozen=True)
class Upload:
    """A picture and the form fields that came with it."""

    image: bytes
    fields: Mapping[str, str] = field(default_factory=dict)


async def receive_upload(request: Request, timeout_s: float) -> Upload:
    """Read the picture that a request carries.

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


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    name: str = ""


class _FormReader:
    """Collects the parts of a form in memory, with a bound on everything that a client chooses.

    The framework's own form parser spools pictures to temporary files: slower than memory, and a full /tmp
    turns into a puzzling error.
    """

    def __init__(self, boundary: bytes) -> None:
        self.parts: dict[str, bytearray] = {}
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._header_bytes = 0
        self.complete = False
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._extend_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._extend_header(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._name_part,
                "on_part_data": self._extend,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def _begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} parts. Send one image and its few fields.")
        self._part = _Part()
        self._header_bytes = 0

    def _extend_header(self, which: int, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise InvalidRequest(f"A part of the form has more than {MAX_HEADER_BYTES} bytes of headers.")
        self._header[which].extend(data)

    def _end_header(self) -> None:
        name, value = self._header
        self._part.headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _name_part(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        self._part.name = options.get(b"name", b"").decode(errors="replace")
        if not self._part.name:
            raise InvalidRequest("A part of the form has no name in its Content-Disposition header.")
        if self._part.name in self.parts:
            raise InvalidRequest(f"The form has the part {self._part.name!r} twice. Send one image per request.")

    def _extend(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.name != IMAGE_FIELD and len(part.content) + end - start > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"The form field {part.name!r} is longer than {MAX_FIELD_BYTES} bytes. The picture belongs into the "
                f"field {IMAGE_FIELD!r}."
            )
        part.content += memoryview(data)[start:end]

    def _end(self) -> None:
        self.parts[self._part.name] = self._part.content

    def _finish(self) -> None:
        self.complete = True


async def _receive_form(stream: AsyncIterator[bytes], content_type: str) -> Upload:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidRequest("The Content-Type of the form names no boundary. Let the HTTP library set the header.")
    try:
        reader = _FormReader(boundary)
        async for chunk in stream:
            reader.parser.write(chunk)
        reader.parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The form cannot be read: {error}.") from error
    if not reader.complete:
        raise InvalidRequest("The form ends before its closing boundary; it was cut off on the way.")
    image = reader.parts.pop(IMAGE_FIELD, None)
    if not image:
        found = ", ".join(sorted(reader.parts)) or "none"
        raise InvalidRequest(f"The form has no image in the field {IMAGE_FIELD!r}. Other fields: {found}.")
    try:
        fields = {name: content.decode() for name, content in reader.parts.items()}
    except UnicodeDecodeError as error:
        raise InvalidRequest("A field of the form is not UTF-8 text.") from error
    return Upload(bytes(image), fields)
