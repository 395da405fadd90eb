"""Images and anomaly maps on a remote file system, such as an S3 bucket, through fsspec.

Objects appear under their name as a whole and are durable when the request that writes them ends. Every request has a
deadline. After a failed write no further image is inspected until a probe could write again: otherwise each inspection
would wait for the deadline first.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import fsspec
import structlog
from fsspec.asyn import AsyncFileSystem, sync

from service.store.artefacts.files import ArtefactFiles, WrittenFile, image_name, map_name
from service.store.artefacts.options import ArtefactOptions
from service.store.artefacts.reasons import is_missing_bucket, remote_reason
from service.store.artefacts.stored_file import last_part
from service.store.errors import StoreUnavailable
from service.store.identity import StorageGuard

_PROBE_BYTES = 1024
_CONNECTIONS = 64
# Files of failed inspections that could not be deleted at once. Beyond that they are left where they are.
_MAX_LEFT_OVER = 10_000
_DELETED_PER_PROBE = 100
_S3 = {"s3", "s3a"}
_REMEDY = (
    "Check PLUMBLINE_ARTEFACTS_URL, the credentials, their permissions and the network (`plumbline doctor`), then send "
    "the image again."
)
log = structlog.get_logger(__name__)


class WrittenObject(WrittenFile):
    """An object that is durable since it was written.

    Args:
        name: The name of the object.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def sync(self) -> None:
        """Do nothing: the object is durable."""

    def close(self) -> None:
        """Do nothing: nothing is open."""


class RemoteFiles(ArtefactFiles):
    """Files on a remote file system. The connection is made by the first request.

    Args:
        options: The URL and the limits of requests.

    Raises:
        StoreUnavailable: The package for this kind of URL is not installed.
    """

    def __init__(self, options: ArtefactOptions) -> None:
        self._options = options
        self._protocol, _, _ = options.url.partition("://")
        self._lock = threading.Lock()
        self._file_system: fsspec.AbstractFileSystem | None = None
        self._inherited: fsspec.AbstractFileSystem | None = None
        self._owner = os.getpid()
        self._failure: str | None = None
        self._left_over: deque[str] = deque(maxlen=_MAX_LEFT_OVER)
        try:
            kind = fsspec.get_filesystem_class(self._protocol)
        except ImportError as error:
            extra = "pip install 'plumbline[s3]'" if self._protocol in _S3 else f"install it: {error.msg}"
            raise StoreUnavailable(
                f"the package that opens {self._protocol}:// URLs is not installed ({extra})", remedy=_REMEDY
            ) from error
        except ValueError as error:
            raise StoreUnavailable(f"{self._protocol}:// URLs are not supported", remedy=_REMEDY) from error
        self._root = str(kind._strip_protocol(options.url)).rstrip("/")

    def prepare(self) -> None:
        """Do nothing: a server that cannot be reached makes the service not ready, it does not prevent its start."""

    def watch(self, guard: StorageGuard) -> None:
        """Do nothing: there is no local folder."""

    def probe(self) -> None:
        """Write a small object and delete it, and then objects that could not be deleted earlier.

        Raises:
            StoreUnavailable: Objects cannot be written or deleted.
        """
        name = f".write-probe.{secrets.token_hex(4)}"
        try:
            self._request("pipe_file", name, bytes(_PROBE_BYTES), deadline_s=self._options.attempt_s)
            self._request("rm_file", name, deadline_s=self._options.attempt_s)
        except Exception as error:
            raise self._write_error(name, error) from error
        self._failure = None
        for _ in range(min(len(self._left_over), _DELETED_PER_PROBE)):
            left = self._left_over.popleft()
            try:
                self._delete(left)
            except StoreUnavailable:
                self._left_over.append(left)
                raise

    def require_writable(self) -> None:
        """Check that the last attempt to write did not fail.

        Raises:
            StoreUnavailable: It failed. The probe of the store ends this state.
        """
        if (failure := self._failure) is not None:
            raise StoreUnavailable(failure, remedy=_REMEDY)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            file_system, self._file_system = self._file_system, None
        session = getattr(file_system, "_s3creator", None)
        if file_system is not None and session is not None:
            with contextlib.suppress(Exception):  # the connections may be broken already
                sync(file_system.loop, session.__aexit__, None, None, None, timeout=1)
                file_system._s3 = None

    def remove(self, inspection_id: UUID, media_type: str) -> None:
        """Delete the objects of an inspection that failed before its row was committed, now or after the next probe."""
        names = (image_name(inspection_id, media_type), map_name(inspection_id))
        for name in names:
            # While nothing can be written, a request would only delay the response.
            if self._failure is None:
                with contextlib.suppress(StoreUnavailable):
                    self._delete(name)
                    continue
            self._left_over.append(name)

    def remove_empty_days(self, inspection_ids: Iterable[UUID]) -> None:
        """Do nothing: an object store has no folders."""

    def _write(self, name: str, data: bytes) -> WrittenFile:
        try:
            self._request("pipe_file", name, data)
        except Exception as error:
            raise self._write_error(name, error) from error
        self._failure = None
        return WrittenObject(name)

    def _read(self, name: str, start: int, length: int | None) -> bytes:
        try:
            return bytes(self._request("cat_file", name, start=start, end=None if length is None else start + length))
        except Exception as error:
            raise self._read_error(name, error) from error

    def _size(self, name: str) -> int:
        try:
            return int(self._request("info", name)["size"])
        except Exception as error:
            raise self._read_error(name, error) from error

    def _delete(self, name: str) -> None:
        try:
            self._request("rm_file", name)
        except FileNotFoundError as error:
            if is_missing_bucket(error):
                raise self._unavailable(f"{last_part(name)} cannot be deleted from", error) from error
        except Exception as error:
            raise self._unavailable(f"{last_part(name)} cannot be deleted from", error) from error

    def _request(self, method: str, name: str, *arguments: Any, deadline_s: float | None = None, **options: Any) -> Any:
        file_system, path = self._connect(), f"{self._root}/{name}"
        if isinstance(file_system, AsyncFileSystem):
            # On the thread of fsspec's event loop. The public methods have no deadline.
            coroutine = getattr(file_system, f"_{method}")
            timeout_s = deadline_s or self._options.deadline_s
            return sync(file_system.loop, coroutine, path, *arguments, timeout=timeout_s, **options)
        return getattr(file_system, method)(path, *arguments, **options)

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

    def _write_error(self, name: str, error: Exception) -> StoreUnavailable:
        unavailable = self._unavailable(f"{last_part(name)} cannot be written to", error)
        self._failure = unavailable.reason
        return unavailable

    def _unavailable(self, what: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"{what} the object store ({remote_reason(error)})", remedy=_REMEDY)

    def _read_error(self, name: str, error: Exception) -> Exception:
        if isinstance(error, FileNotFoundError) and not is_missing_bucket(error):
            return FileNotFoundError(name)
        return self._unavailable(f"{last_part(name)} cannot be read from", error)
