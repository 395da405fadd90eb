"""Receive several images: the files of a form or of a zip archive, one at a time and within the limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import IO
from zipfile import ZipFile, ZipInfo

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.api.http.bodies import receive_file, require_media_type
from service.api.http.clients import client_of
from service.api.http.errors import RequestTimeout
from service.api.http.forms import IMAGE_FIELD, MULTIPART, FormReader
from service.api.http.problems import BodyLimitExceeded
from service.errors import BadArchive, BodyTooLarge, InvalidRequest, PlumblineError, TooManyImages
from service.serving.archive_space import ArchiveSpace
from service.serving.batch import Frame
from service.serving.image import Image, StatedBuffer
from service.serving.memory_budget import MemoryBudget, Reservation
from service.serving.records import PartRecord
from service.settings import Settings
from service.store.errors import StoreUnavailable
from service.untrusted_zip import MEDIA_TYPE as ZIP
from service.untrusted_zip import METHODS, BadZip, UnpackLimitExceeded, is_encrypted, open_zip, unpack

IMAGES_MEDIA_TYPES = (MULTIPART, ZIP)
MAX_LABEL = 256
# Maximum size of an image's entry in the directory of a zip file, including its name. It leaves space for entries that
# are skipped, such as folders and thumbnails.
_ENTRY_BYTES = 2048


class ImageSource:
    """The images of one request.

    Args:
        request: The request; `BodyLimitMiddleware` bounds its body.
        settings: The other limits.
        memory: Budget of the images that are in memory.
        space: Disk space for a zip archive.
        part: Metadata of all images.
        buffer: What the client states about all camera buffers; nothing for encoded images.
    """

    def __init__(
        self,
        request: Request,
        settings: Settings,
        memory: MemoryBudget,
        space: ArchiveSpace,
        part: PartRecord,
        buffer: StatedBuffer | None = None,
    ) -> None:
        self._request = request
        self._settings = settings
        self._client = client_of(request.scope)
        self._memory = memory
        self._space = space
        self._receiving = memory.reserve(self._client, 0)
        self._empty = Image(b"", part, buffer or StatedBuffer())
        self._remaining_s = settings.body_timeout_s

    def images(self) -> AsyncGenerator[Frame]:
        """Return the images of the request, read from its form or zip archive.

        Raises:
            UnsupportedMediaType: The body is neither a form nor a zip archive.
        """
        media_type = require_media_type(self._request, IMAGES_MEDIA_TYPES)
        return self._zipped() if media_type == ZIP else self._form(self._request.headers["content-type"])

    async def _form(self, content_type: str) -> AsyncGenerator[Frame]:
        """Yield the images of a form, each as soon as it is complete.

        Raises:
            InvalidRequest: The form is malformed or has another field.
            TooManyImages, BodyTooLarge, RequestTimeout, MemoryBudgetExceeded: A limit is exceeded.
        """
        limit = self._settings.max_call_images
        reader = FormReader(content_type, limit + 1, self._settings.max_body_bytes)
        count = 0
        async for part in reader.parts(self._chunks()):
            if part.name != IMAGE_FIELD:
                raise InvalidRequest(
                    f"The form has the field {part.name!r}. A form with several images has files in the field "
                    f"{IMAGE_FIELD!r} only. Send all other values as query parameters."
                )
            count += 1
            if count > limit:
                raise TooManyImages(limit)
            self._remaining_s = self._settings.body_timeout_s  # the timeout holds per image
            label = _label(part.file_name)
            if part.is_too_large:
                self._receiving.release()
                yield self._failed(label, BodyTooLarge(self._settings.max_body_bytes))
            else:
                data = bytes(part.content)
                self._receiving.release()
                yield self._frame(label, data, self._memory.reserve(self._client, len(data)))

    async def _zipped(self) -> AsyncGenerator[Frame]:
        """Yield the files of a zip archive in the order of its directory, each unpacked when it is requested.

        Raises:
            BadArchive: The body is not a zip archive, or it is damaged.
            TooManyImages, BodyTooLarge, RequestTimeout, MemoryBudgetExceeded: A limit is exceeded.
            StoreUnavailable: The archive cannot be written to the data folder, or the disk has too little space.
            DeadlineExceeded: Too many directories of other archives are being read.
        """
        length = self._request.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else self._settings.max_call_bytes
        with self._space.reserve(size):
            async with aclosing(self._unzipped()) as frames:
                async for frame in frames:
                    yield frame

    async def _unzipped(self) -> AsyncGenerator[Frame]:
        try:
            # On disk and unnamed: the archive may be larger than the available memory.
            archive: IO[bytes] = await run_in_threadpool(TemporaryFile, dir=self._settings.data)
            try:
                await receive_file(self._request, archive)
                with ExitStack() as zip_file:
                    opened, entries = await self._space.read_directory(
                        lambda: self._open(archive, zip_file), self._settings.queue_deadline_s
                    )
                    for entry in entries:
                        memory = self._memory.reserve(self._client, 0)
                        size = min(entry.file_size, self._settings.max_body_bytes)
                        await memory.grow_when_free(size, self._settings.queue_deadline_s)
                        try:
                            frame = await run_in_threadpool(self._unpack, opened, entry)
                        except BaseException:  # also if the consumer stops: no frame holds the memory yet
                            memory.release()
                            raise
                        yield replace(frame, memory=memory)
            finally:
                await run_in_threadpool(archive.close)
        except BadZip as error:
            raise BadArchive(str(error)) from error
        except BodyLimitExceeded as error:
            raise error.problem from error
        except OSError as error:
            raise StoreUnavailable(f"{self._settings.data} cannot be written ({error.strerror})") from error

    def _open(self, archive: IO[bytes], zip_file: ExitStack) -> tuple[ZipFile, list[ZipInfo]]:
        """Read the directory of a zip archive, which may have thousands of entries. It blocks.

        Args:
            archive: The archive.
            zip_file: Closes the opened archive.

        Returns:
            The opened archive and the entries of its images.

        Raises:
            BadZip: The archive is damaged.
            TooManyImages, BodyTooLarge: A limit is exceeded.
        """
        limit, limit_bytes = self._settings.max_call_images, self._settings.max_call_bytes
        opened = zip_file.enter_context(open_zip(archive, limit * _ENTRY_BYTES))
        entries = [entry for entry in opened.infolist() if not _is_skipped(entry)]
        if len(entries) > limit:
            raise TooManyImages(limit)
        if sum(entry.file_size for entry in entries) > limit_bytes:
            raise BodyTooLarge(limit_bytes, "PLUMBLINE_MAX_CALL_BYTES")
        return opened, entries

    def _unpack(self, opened: ZipFile, entry: ZipInfo) -> Frame:
        label = _label(entry.filename)
        limit_bytes = self._settings.max_body_bytes
        if is_encrypted(entry) or entry.compress_type not in METHODS:
            reason = "The file in the archive is encrypted or uses another compression method than deflate."
            return self._failed(label, InvalidRequest(reason))
        try:
            # The stated size is checked first, the real size while unpacking.
            if entry.file_size > limit_bytes:
                raise UnpackLimitExceeded
            data = unpack(opened, entry, limit_bytes)
        except UnpackLimitExceeded:
            return self._failed(label, BodyTooLarge(limit_bytes))
        except BadZip as error:
            return self._failed(label, BadArchive(str(error)))
        return self._frame(label, data)

    def _frame(self, label: str | None, data: bytes, memory: Reservation | None = None) -> Frame:
        if not data:
            return self._failed(label, InvalidRequest("The file is empty."))
        return Frame(replace(self._empty, data=data), label, memory=memory)

    def _failed(self, label: str | None, error: PlumblineError) -> Frame:
        return Frame(self._empty, label, error)

    async def _chunks(self) -> AsyncGenerator[bytes]:
        """Yield the request's body. Only the time spent waiting for the sender counts, from image to image."""
        stream = aiter(self._request.stream())
        try:
            while True:
                started = time.monotonic()
                async with asyncio.timeout(self._remaining_s):
                    chunk = await anext(stream, None)
                self._remaining_s -= time.monotonic() - started
                if chunk is None:
                    return
                # What exceeds the limit of one image is not kept.
                size = min(len(chunk), self._settings.max_body_bytes - self._receiving.size)
                await self._receiving.grow_when_free(size, self._settings.queue_deadline_s)
                yield chunk
        except TimeoutError as error:
            raise RequestTimeout(self._settings.body_timeout_s) from error
        except ClientDisconnect as error:
            raise InvalidRequest("The client closed the connection before the request was complete.") from error
        except BodyLimitExceeded as error:
            raise error.problem from error
        finally:
            self._receiving.release()


def _label(name: str | None) -> str | None:
    """Return a file name as a label that is safe to send back. It is never used as a path."""
    if name is None:
        return None
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name[:MAX_LABEL])


def _is_skipped(entry: ZipInfo) -> bool:
    """Return whether an entry is a folder or a file that desktop systems add to archives."""
    path = PurePosixPath(entry.filename)
    return entry.is_dir() or "__MACOSX" in path.parts or path.name in {".DS_Store", "Thumbs.db", "desktop.ini"}
