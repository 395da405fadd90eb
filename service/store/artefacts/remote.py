"""Images and anomaly maps on a remote file system, such as an S3 bucket, through fsspec.

Objects appear under their name as a whole and are durable when the request that writes them ends. Every request has a
deadline. After a failed write no further image is inspected until a probe could write again: otherwise each inspection
would wait for the deadline first.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from uuid import UUID

import structlog

from service.store.artefacts.file_system import RemoteFileSystem
from service.store.artefacts.files import ArtefactFiles, WrittenFile, image_name, map_name
from service.store.artefacts.options import ArtefactOptions
from service.store.artefacts.reasons import is_missing_bucket, remote_reason
from service.store.artefacts.stored_file import last_part
from service.store.errors import StoreUnavailable
from service.store.identity import StorageGuard

_PROBE_BYTES = 1024
# Files of failed inspections that could not be deleted at once. Beyond that they are left where they are.
_MAX_LEFT_OVER = 10_000
_DELETED_PER_PROBE = 100
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
        self._file_system = RemoteFileSystem(options, _REMEDY)
        self._failure: str | None = None
        self._left_over: deque[str] = deque(maxlen=_MAX_LEFT_OVER)

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
            self._file_system.request("pipe_file", name, bytes(_PROBE_BYTES), deadline_s=self._options.attempt_s)
            self._file_system.request("rm_file", name, deadline_s=self._options.attempt_s)
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
        self._file_system.close()

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
            self._file_system.request("pipe_file", name, data)
        except Exception as error:
            raise self._write_error(name, error) from error
        self._failure = None
        return WrittenObject(name)

    def _read(self, name: str, start: int, length: int | None) -> bytes:
        try:
            end = None if length is None else start + length
            return bytes(self._file_system.request("cat_file", name, start=start, end=end))
        except Exception as error:
            raise self._read_error(name, error) from error

    def _size(self, name: str) -> int:
        try:
            return int(self._file_system.request("info", name)["size"])
        except Exception as error:
            raise self._read_error(name, error) from error

    def _delete(self, name: str) -> None:
        for error in self._delete_all([name]).values():
            raise error from error.__cause__

    def _delete_all(self, names: Sequence[str]) -> dict[str, StoreUnavailable]:
        failed = {}
        for name, error in zip(names, self._file_system.remove_all(names), strict=True):
            if error is not None and (not isinstance(error, FileNotFoundError) or is_missing_bucket(error)):
                failed[name] = self._unavailable(f"{last_part(name)} cannot be deleted from", error)
                failed[name].__cause__ = error
        return failed

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
