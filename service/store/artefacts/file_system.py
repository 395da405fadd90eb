"""A remote file system of fsspec, such as an S3 bucket. Every request has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from service.store.artefacts.options import ArtefactOptions
from service.store.artefacts.reasons import code_of
from service.store.errors import StoreUnavailable

_CONNECTIONS = 64
# Requests at the same time for one call. The others are for inspections.
_AT_ONCE = 32
_S3 = {"s3", "s3a"}


class RemoteFileSystem:
    """A remote file system. The connection is made by the first request.

    Args:
        options: The URL and the limits of requests.
        remedy: What to do if the package for this kind of URL is not installed, as a sentence.

    Raises:
        StoreUnavailable: The package for this kind of URL is not installed.
    """

    def __init__(self, options: ArtefactOptions, remedy: str) -> None:
        self._options = options
        self._protocol, _, _ = options.url.partition("://")
        self._lock = threading.Lock()
        self._file_system: fsspec.AbstractFileSystem | None = None
        self._inherited: fsspec.AbstractFileSystem | None = None
        self._owner = os.getpid()
        try:
            kind = fsspec.get_filesystem_class(self._protocol)
        except ImportError as error:
            extra = (
                "pip install ./client '.[s3]' in a checkout of Plumbline"
                if self._protocol in _S3
                else f"install it: {error.msg}"
            )
            raise StoreUnavailable(
                f"the package that opens {self._protocol}:// URLs is not installed ({extra})", remedy=remedy
            ) from error
        except ValueError as error:
            raise StoreUnavailable(f"{self._protocol}:// URLs are not supported", remedy=remedy) from error
        self._root = str(kind._strip_protocol(options.url)).rstrip("/")

    def request(self, method: str, name: str, *arguments: Any, deadline_s: float | None = None, **options: Any) -> Any:
        """Call a method of the file system, and return its result.

        Args:
            method: Name of the method, such as `cat_file`.
            name: Name of the object below the URL.
            arguments: Its further arguments.
            deadline_s: Seconds that it may take; None for the deadline of the options.
            options: Its options.

        Raises:
            Exception: Whatever the file system raises.
        """
        file_system, path = self._connect(), f"{self._root}/{name}"
        if isinstance(file_system, AsyncFileSystem):
            # On the thread of fsspec's event loop. The public methods have no deadline.
            coroutine = getattr(file_system, f"_{method}")
            timeout_s = deadline_s or self._options.deadline_s
            return sync(file_system.loop, coroutine, path, *arguments, timeout=timeout_s, **options)
        return getattr(file_system, method)(path, *arguments, **options)

    def remove_all(self, names: Sequence[str]) -> list[Exception | None]:
        """Delete objects: in S3 with one request for up to 1000 of them, otherwise at the same time if possible.

        Args:
            names: Names of the objects below the URL, at most 1000.

        Returns:
            What the file system raised, in the order of the names; None where the object is deleted.
        """
        paths = [f"{self._root}/{name}" for name in names]
        try:
            file_system = self._connect()
            if not isinstance(file_system, AsyncFileSystem):
                return [_error_of(file_system.rm_file, path) for path in paths]
            if self._protocol in _S3 and len(paths) > 1:
                found = self._remove_together(file_system, paths)
                if found is not None:
                    return found
            call = partial(_call_all, file_system._rm_file, paths, self._options.deadline_s)
            # Each call has its deadline; this one is for a call that does not end when it is cancelled.
            rounds = 2 + len(paths) // _AT_ONCE
            errors: list[Exception | None] = sync(file_system.loop, call, timeout=rounds * self._options.deadline_s)
            return errors
        except Exception as error:  # noqa: BLE001 - returned as the reason of every object
            return [error] * len(names)

    def _remove_together(self, file_system: Any, paths: Sequence[str]) -> list[Exception | None] | None:
        """Delete objects of S3 with one request; None if the server refuses this kind of request.

        Not with a method of s3fs for several objects: it does not report which of them were not deleted.
        """
        from botocore.exceptions import ClientError

        bucket, _, _ = file_system.split_path(paths[0])
        keys = [file_system.split_path(path)[1] for path in paths]
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        try:
            answer = sync(
                file_system.loop, file_system._call_s3, "delete_objects",
                Bucket=bucket, Delete=wanted, timeout=self._options.deadline_s,
            )  # fmt: skip
        except Exception as error:
            if code_of(error):  # some servers lack this request, or demand another checksum
                return None
            raise
        failed = {item["Key"]: ClientError({"Error": item}, "DeleteObjects") for item in answer.get("Errors", ())}
        return [failed.get(key) for key in keys]

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            file_system, self._file_system = self._file_system, None
        session = getattr(file_system, "_s3creator", None)
        if file_system is not None and session is not None:
            with contextlib.suppress(Exception):  # the connections may be broken already
                sync(file_system.loop, session.__aexit__, None, None, None, timeout=1)
                file_system._s3 = None

    def _connect(self) -> fsspec.AbstractFileSystem:
        if self._owner != os.getpid():
            # In a process that was forked, neither the connections nor the event loop of the parent work, and a thread
            # that does not exist may hold the lock. The old object is kept: its end would wait for that event loop.
            self._inherited, self._file_system = self._file_system, None
            self._owner, self._lock = os.getpid(), threading.Lock()
        with self._lock:
            if self._file_system is None:
                self._file_system = self._open_file_system()
            return self._file_system

    def _open_file_system(self) -> fsspec.AbstractFileSystem:
        if self._protocol not in _S3:
            return fsspec.filesystem(self._protocol)
        options = self._options
        file_system = fsspec.filesystem(
            self._protocol,
            skip_instance_cache=True,
            use_listings_cache=False,
            endpoint_url=options.s3_endpoint_url or None,
            config_kwargs={
                "connect_timeout": options.connect_timeout_s,
                "read_timeout": options.read_timeout_s,
                "retries": {"mode": "adaptive", "total_max_attempts": options.attempts},
                "max_pool_connections": _CONNECTIONS,
                # Servers other than AWS often have no host name per bucket.
                **({"s3": {"addressing_style": "path"}} if options.s3_endpoint_url else {}),
            },
        )
        file_system.retries = 1  # those of botocore are enough; s3fs would repeat each of them
        # Reads the service models from disk, which takes longer than a request and must not count as one.
        sync(file_system.loop, file_system.set_session)
        return file_system


async def _call_all(
    call: Callable[[str], Awaitable[Any]], paths: Sequence[str], deadline_s: float
) -> list[Exception | None]:
    """Call a function with every path, `_AT_ONCE` at the same time, and return what each raised."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def error_of(path: str) -> Exception | None:
        async with turn:
            try:
                await asyncio.wait_for(call(path), deadline_s)
            except Exception as error:  # noqa: BLE001 - returned
                return error
            return None

    return list(await asyncio.gather(*(error_of(path) for path in paths)))


def _error_of(call: Callable[[str], Any], path: str) -> Exception | None:
    try:
        call(path)
    except Exception as error:  # noqa: BLE001 - returned
        return error
    return None
