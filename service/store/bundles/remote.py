"""The files of bundles on a remote file system, such as an S3 bucket, through fsspec."""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from typing import Any

from service.store.artefacts.file_system import RemoteFileSystem
from service.store.artefacts.options import ArtefactOptions
from service.store.artefacts.reasons import is_missing_bucket, remote_reason
from service.store.artefacts.stored_file import last_part
from service.store.bundles.objects import BundleObjects
from service.store.errors import BundleStoreUnavailable, StoreUnavailable

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


def _is_beyond_end(error: Exception) -> bool:
    """Return whether a range begins behind the end of an object, for which S3 reports an error."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code") in {"InvalidRange", "416"}:
            return True
    return False
