"""The files of bundles on a remote file system, such as an S3 bucket, through fsspec."""

from __future__ import annotations

import secrets
from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from service.store.artefacts.file_system import RemoteFileSystem
from service.store.artefacts.options import ArtefactOptions
from service.store.artefacts.reasons import is_missing_bucket, remote_reason
from service.store.artefacts.stored_file import last_part
from service.store.bundles.objects import BundleObjects, StoredObject, is_digest
from service.store.errors import BundleStoreUnavailable, StoreUnavailable

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
_LIST_DEADLINE_S = 600.0
"""Seconds for the names of all bundles, 1000 of which are one request."""
_STATE = ("size", "ETag", "LastModified", "mtime")
_REMEDY = "Install it, or choose another PLUMBLINE_BUNDLE_STORE."


class RemoteObjects(BundleObjects):
    """Files on a remote file system. The connection is made by the first request.

    Args:
        options: The URL and the limits of requests.
        min_rate: Bytes per second that an upload is given time for, beside the time of a request.

    Raises:
        BundleStoreUnavailable: The package for this kind of URL is not installed.
    """

    def __init__(self, options: ArtefactOptions, min_rate: int) -> None:
        self._options = options
        self._min_rate = min_rate
        try:
            self._file_system = RemoteFileSystem(options, _REMEDY)
        except StoreUnavailable as error:
            raise BundleStoreUnavailable(error.reason, error.remedy) from error

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return a part of a file."""
        try:
            return bytes(self._request("cat_file", name, start=start, end=start + length))
        except FileNotFoundError as error:
            if is_missing_bucket(error):
                raise _unavailable(f"{last_part(name)} cannot be read", error) from error
            raise
        except Exception as error:
            if _is_beyond_end(error):
                return b""
            raise _unavailable(f"{last_part(name)} cannot be read", error) from error

    def state(self, name: str) -> Hashable:
        """Return size, hash and time of change of an object, as far as the file system states them."""
        try:
            found = self._request("info", name)
        except FileNotFoundError as error:
            if is_missing_bucket(error):
                raise _unavailable(f"{last_part(name)} cannot be read", error) from error
            return None
        except Exception as error:
            raise _unavailable(f"{last_part(name)} cannot be read", error) from error
        return tuple(str(found.get(field)) for field in _STATE)

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        deadline_s = self._options.deadline_s + len(data) / self._min_rate
        try:
            self._request("pipe_file", name, data, deadline_s=deadline_s)
        except Exception as error:
            raise _unavailable(f"{last_part(name)} cannot be written", error) from error

    def digests(self) -> set[str]:
        """Return the names of the folders of bundles."""
        try:
            found = self._request("ls", "", detail=False, deadline_s=_LIST_DEADLINE_S)
        except FileNotFoundError as error:
            if is_missing_bucket(error):
                raise _unavailable("bundles cannot be listed", error) from error
            return set()
        except Exception as error:
            raise _unavailable("bundles cannot be listed", error) from error
        return {name for name in (last_part(str(path).rstrip("/")) for path in found) if is_digest(name)}

    def files(self, digest: str) -> list[StoredObject]:
        """Return the objects below the name of a bundle."""
        try:
            found: dict[str, dict[str, Any]] = self._request("find", digest, detail=True)
        except FileNotFoundError as error:
            if is_missing_bucket(error):
                raise _unavailable(f"bundle {digest[:12]} cannot be listed", error) from error
            return []
        except Exception as error:
            raise _unavailable(f"bundle {digest[:12]} cannot be listed", error) from error
        files = ((path.rpartition(f"/{digest}/")[2], item) for path, item in sorted(found.items()))
        return [StoredObject(name, int(item.get("size") or 0), _modified_at(item)) for name, item in files]

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects."""
        for name, error in zip(names, self._file_system.remove_all(names), strict=True):
            if error is not None and (not isinstance(error, FileNotFoundError) or is_missing_bucket(error)):
                raise _unavailable(f"{name} cannot be deleted", error) from error

    def probe(self) -> None:
        """Write a small object and delete it."""
        name = f".write-probe.{secrets.token_hex(4)}"
        try:
            self._request("pipe_file", name, bytes(1024))
            self._request("rm_file", name)
        except Exception as error:
            raise _unavailable("a small file cannot be written and deleted", error) from error

    def close(self) -> None:
        """Close the connections."""
        self._file_system.close()

    def _request(self, method: str, name: str, *arguments: Any, **options: Any) -> Any:
        return self._file_system.request(method, name, *arguments, **options)


def _unavailable(what: str, error: Exception) -> BundleStoreUnavailable:
    return BundleStoreUnavailable(f"{what} ({remote_reason(error)})")


def _modified_at(item: Mapping[str, Any]) -> datetime | None:
    """Return when an object was written, in the form of any file system; None if it is not stated."""
    value = next((item[name] for name in _TIMES if item.get(name) is not None), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _is_beyond_end(error: Exception) -> bool:
    """Return whether a range begins behind the end of an object, for which S3 reports an error."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code") in {"InvalidRange", "416"}:
            return True
    return False
