"""Forms (multipart/form-data), part by part, with a bound on everything that a client chooses.

The framework's own form parser spools images to temporary files: slower than memory, and a full /tmp turns into a
puzzling error.
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
        name: Name of the field.
        file_name: What the sender calls the file; None where there is none.
        content: Its bytes; empty where there were more than allowed.
        is_too_large: There were.
    """

    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    name: str = ""
    file_name: str | None = None
    is_too_large: bool = False


class FormReader:
    """Cuts a form into its parts.

    Args:
        content_type: The request's, which names the boundary.
        max_parts: Parts that a form may have.
        max_image_bytes: Bytes that one image may have; None leaves it to the bound on the whole body.

    Raises:
        InvalidRequest: The form is broken, or exceeds a bound.
    """

    def __init__(self, content_type: str, max_parts: int, max_image_bytes: int | None = None) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise InvalidRequest("The Content-Type of the form names no boundary. Let the HTTP library set the header.")
        self._max_parts = max_parts
        self._max_image_bytes = max_image_bytes
        self._begun = 0
        self._whole: list[FormPart] = []
        self._part = FormPart()
        self._header = (bytearray(), bytearray())
        self._header_bytes = 0
        self._is_complete = False
        with _readable():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._extend_header(0, data[start:end]),
                    "on_header_value": lambda data, start, end: self._extend_header(1, data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._name_part,
                    "on_part_data": self._extend,
                    "on_part_end": lambda: self._whole.append(self._part),
                    "on_end": self._finish,
                },
            )

    async def parts(self, stream: AsyncIterator[bytes]) -> AsyncIterator[FormPart]:
        """The parts of a form, each as soon as it is whole; the stream is read no further before that.

        Args:
            stream: The request's body.

        Raises:
            InvalidRequest: The form is broken, or exceeds a bound.
        """
        async for chunk in stream:
            broken: InvalidRequest | None = None
            try:
                with _readable():
                    self._parser.write(chunk)
            except InvalidRequest as error:
                broken = error
            while self._whole:
                yield self._whole.pop(0)
            if broken is not None:  # after what was whole before, wherever the network cut the pieces
                raise broken
        with _readable():
            self._parser.finalize()
        if not self._is_complete:
            raise InvalidRequest("The form ends before its closing boundary; it was cut off on the way.")

    def _begin(self) -> None:
        self._begun += 1
        if self._begun > self._max_parts:
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
                f"The form field {part.name!r} is longer than {MAX_FIELD_BYTES} bytes. The image belongs into the "
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
def _readable() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise InvalidRequest(f"The form cannot be read: {error}.") from error
