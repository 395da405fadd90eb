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
from service.store.errors import StoreUnavailable

_CONNECTIONS = 64
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

    def request_all(self, method: str, names: Sequence[str]) -> list[Exception | None]:
        """Call a method of the file system for several objects, at the same time if it can do that.

        Args:
            method: Name of the method, such as `rm_file`.
            names: Names of the objects below the URL. Each has a connection, so give a few dozen at most.

        Returns:
            What the file system raised, in the order of the names; None where the call succeeded.
        """
        paths, deadline_s = [f"{self._root}/{name}" for name in names], self._options.deadline_s
        try:
            file_system = self._connect()
            if isinstance(file_system, AsyncFileSystem):
                call = partial(_call_all, getattr(file_system, f"_{method}"), paths, deadline_s)
                # Each call has its deadline; this one is for a call that does not end when it is cancelled.
                found: list[Exception | None] = sync(file_system.loop, call, timeout=2 * deadline_s)
                return found
        except Exception as error:  # noqa: BLE001 - returned as the reason of every object
            return [error] * len(names)
        return [_error_of(getattr(file_system, method), path) for path in paths]

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
    """Call a function with every path at the same time, and return what each raised."""

    async def error_of(path: str) -> Exception | None:
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
