"""Receiving several images: the files of a form or of a zip archive, one at a time and never beyond the limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import IO
from zipfile import ZipFile, ZipInfo

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.api.http.bodies import receive_file
from service.api.http.errors import RequestTimeout
from service.api.http.forms import IMAGE_FIELD, FormReader
from service.api.http.problems import BodyLimitExceeded
from service.errors import BadArchive, BodyTooLarge, InvalidRequest, TooManyImages
from service.serving.batch import Frame
from service.settings import Settings
from service.store.errors import StoreUnavailable
from service.untrusted_zip import METHODS, BadZip, UnpackLimitExceeded, is_encrypted, open_zip, unpack

MAX_LABEL = 256
# What an image's entry may take in a zip file's table of contents, name included. With room for what archivers put
# beside images (folders, thumbnails), which are passed over.
_ENTRY_BYTES = 2048


class ImageSource:
    """The images of one request.

    Args:
        request: Its body is bounded by `BodyLimit`.
        settings: The other limits.
        empty: What every frame has but its label and data.
    """

    def __init__(self, request: Request, settings: Settings, empty: Frame) -> None:
        self._request = request
        self._settings = settings
        self._empty = empty
        self._patience_s = settings.body_timeout_s

    async def form(self, content_type: str) -> AsyncGenerator[Frame]:
        """The images of a form, each as soon as it is whole.

        Raises:
            InvalidRequest: The form is broken or holds something else.
            TooManyImages, BodyTooLarge, RequestTimeout: A limit is exceeded.
        """
        limit = self._settings.max_call_images
        reader = FormReader(content_type, limit + 1, self._settings.max_body_bytes)
        count = 0
        async for part in reader.parts(self._pieces()):
            if part.name != IMAGE_FIELD:
                raise InvalidRequest(
                    f"The form has the field {part.name!r}. Of several images, a form holds the files in the field "
                    f"{IMAGE_FIELD!r} only; what is said about the part stands in the query."
                )
            count += 1
            if count > limit:
                raise TooManyImages(limit)
            self._patience_s = self._settings.body_timeout_s  # a whole image came: the sender is no idler
            frame = replace(self._empty, label=_label(part.file_name))
            if part.is_too_large:
                yield replace(frame, refusal=BodyTooLarge(self._settings.max_body_bytes))
            elif not part.content:
                yield replace(frame, refusal=InvalidRequest("The file is empty."))
            else:
                yield replace(frame, data=bytes(part.content))

    async def zipped(self) -> AsyncGenerator[Frame]:
        """The files of a zip archive, in the order of its table of contents, each unpacked when its turn comes.

        Raises:
            BadArchive: It is no zip file or is damaged.
            TooManyImages, BodyTooLarge, RequestTimeout: A limit is exceeded.
            StoreUnavailable: The data folder does not take it.
        """
        limit = self._settings.max_call_images
        try:
            # On the disk and without a name: it may be far larger than what this machine has memory to spare for.
            archive: IO[bytes] = await run_in_threadpool(TemporaryFile, dir=self._settings.data)
            try:
                await receive_file(self._request, archive, self._settings.body_timeout_s)
                with open_zip(archive, limit * _ENTRY_BYTES) as opened:
                    entries = [entry for entry in opened.infolist() if not _is_decoration(entry)]
                    if len(entries) > limit:
                        raise TooManyImages(limit)
                    stated = sum(entry.file_size for entry in entries)
                    if stated > self._settings.max_call_bytes:
                        raise BodyTooLarge(self._settings.max_call_bytes, "PLUMBLINE_MAX_CALL_BYTES")
                    for entry in entries:
                        yield await run_in_threadpool(self._unpack, opened, entry)
            finally:
                await run_in_threadpool(archive.close)
        except BadZip as error:
            raise BadArchive(str(error)) from error
        except BodyLimitExceeded as error:
            raise error.problem from error
        except OSError as error:
            raise StoreUnavailable(f"{self._settings.data} cannot be written ({error.strerror})") from error

    def _unpack(self, opened: ZipFile, entry: ZipInfo) -> Frame:
        frame = replace(self._empty, label=_label(entry.filename))
        limit_bytes = self._settings.max_body_bytes
        if is_encrypted(entry) or entry.compress_type not in METHODS:
            reason = "The file in the archive is encrypted, or compressed by another method than deflate."
            return replace(frame, refusal=InvalidRequest(reason))
        try:
            # What the archive says first, what really comes out second.
            if entry.file_size > limit_bytes:
                raise UnpackLimitExceeded
            data = unpack(opened, entry, limit_bytes)
        except UnpackLimitExceeded:
            return replace(frame, refusal=BodyTooLarge(limit_bytes))
        except BadZip as error:
            return replace(frame, refusal=BadArchive(str(error)))
        return replace(frame, data=data) if data else replace(frame, refusal=InvalidRequest("The file is empty."))

    async def _pieces(self) -> AsyncGenerator[bytes]:
        """The request's body. Time counts only while the sender is waited for, and begins anew with every image."""
        stream = aiter(self._request.stream())
        try:
            while True:
                since = time.monotonic()
                async with asyncio.timeout(self._patience_s):
                    piece = await anext(stream, None)
                self._patience_s -= time.monotonic() - since
                if piece is None:
                    return
                yield piece
        except TimeoutError as error:
            raise RequestTimeout(self._settings.body_timeout_s) from error
        except ClientDisconnect as error:
            raise InvalidRequest("The client went away before its request was complete.") from error
        except BodyLimitExceeded as error:
            raise error.problem from error


def _label(name: str | None) -> str | None:
    """A name that a sender chose, fit to be given back: never a path that anything is written to or read from."""
    if name is None:
        return None
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name[:MAX_LABEL])


def _is_decoration(entry: ZipInfo) -> bool:
    """Whether an entry is a folder, or what desktop systems add to archives unasked."""
    path = PurePosixPath(entry.filename)
    return entry.is_dir() or "__MACOSX" in path.parts or path.name in {".DS_Store", "Thumbs.db", "desktop.ini"}
