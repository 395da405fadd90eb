"""A streaming parser for forms (multipart/form-data) that limits every size a client can choose.

The parser of the framework writes images to temporary files, which is slower than memory and fails with an unclear
error when /tmp is full.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequest

MULTIPART = "multipart/form-data"
IMAGE_FIELD = "image"
MAX_HEADER_BYTES = 2048
MAX_FIELD_BYTES = 1024


@dataclass
class FormPart:
    """One part of a form.

    Attributes:
        headers: Headers of the part, by lower-case name.
        content: Content of the part; empty if it exceeded the limit.
        name: Name of the form field.
        file_name: File name that the client sent, or None.
        is_too_large: Whether the content exceeded the limit.
    """

    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    name: str = ""
    file_name: str | None = None
    is_too_large: bool = False


class FormReader:
    """A parser that splits a form into its parts.

    Args:
        content_type: Content-Type of the request, including the boundary.
        max_parts: Largest number of parts in a form.
        max_image_bytes: Largest size of one image in bytes; None applies only the limit of the whole body.

    Raises:
        InvalidRequest: The Content-Type has no boundary.
    """

    def __init__(self, content_type: str, max_parts: int, max_image_bytes: int | None = None) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise InvalidRequest("The Content-Type of the form has no boundary. Let the HTTP library set the header.")
        self._max_parts = max_parts
        self._max_image_bytes = max_image_bytes
        self._count = 0
        self._complete: list[FormPart] = []
        self._part = FormPart()
        self._header = (bytearray(), bytearray())
        self._header_bytes = 0
        self._is_complete = False
        with _form_errors():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._extend_header(0, data[start:end]),
                    "on_header_value": lambda data, start, end: self._extend_header(1, data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._name_part,
                    "on_part_data": self._extend,
                    "on_part_end": lambda: self._complete.append(self._part),
                    "on_end": self._finish,
                },
            )

    async def parts(self, stream: AsyncIterator[bytes]) -> AsyncIterator[FormPart]:
        """Yield each part as soon as it is complete, without reading the stream further than necessary.

        Args:
            stream: The request body.

        Raises:
            InvalidRequest: The form is malformed or exceeds a limit.
        """
        async for chunk in stream:
            failure: InvalidRequest | None = None
            try:
                with _form_errors():
                    self._parser.write(chunk)
            except InvalidRequest as error:
                failure = error
            while self._complete:
                yield self._complete.pop(0)
            # Parts that were complete come first, independently of how the network divided the stream into chunks.
            if failure is not None:
                raise failure
        with _form_errors():
            self._parser.finalize()
        if not self._is_complete:
            raise InvalidRequest("The form ends before its closing boundary. It was cut off; send it again.")

    def _begin(self) -> None:
        self._count += 1
        if self._count > self._max_parts:
            raise InvalidRequest(f"The form has more than {self._max_parts} parts.")
        self._part = FormPart()
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
        if b"filename" in options:
            self._part.file_name = options[b"filename"].decode(errors="replace")

    def _extend(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        size = len(part.content) + end - start
        if part.name != IMAGE_FIELD and size > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"The form field {part.name!r} is longer than {MAX_FIELD_BYTES} bytes. Send the image in the "
                f"field {IMAGE_FIELD!r}."
            )
        if part.is_too_large or (self._max_image_bytes is not None and size > self._max_image_bytes):
            part.is_too_large = True
            part.content.clear()
            return
        part.content += memoryview(data)[start:end]

    def _finish(self) -> None:
        self._is_complete = True


@contextmanager
def _form_errors() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise InvalidRequest(
            "The form cannot be read as multipart/form-data: a boundary, a header of a part or the end is missing or "
            "malformed."
        ) from error
