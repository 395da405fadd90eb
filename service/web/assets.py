"""Scripts, style sheets and icons of the pages, from memory and compressed."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response

STATIC = Path(__file__).parent / "static"
PREFIX = "/web/assets"
_COMPRESSED = frozenset({".js", ".css", ".svg", ".json"})
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        content: The file.
        compressed: The file, compressed with gzip; None if that is not worthwhile.
        media_type: Its media type.
    """

    content: bytes
    compressed: bytes | None
    media_type: str

    def response(self, request_headers: Headers, headers: dict[str, str]) -> Response:
        """Return the file, compressed if the client accepts that.

        Args:
            request_headers: Headers of the request.
            headers: Further headers of the response.
        """
        headers = {**headers, "Vary": "Accept-Encoding"}
        accepted = request_headers.get("accept-encoding", "").replace(" ", "").split(",")
        if self.compressed is not None and "gzip" in accepted:
            return Response(
                self.compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.media_type
            )
        return Response(self.content, headers=headers, media_type=self.media_type)


class Assets:
    """All files below a folder.

    The URL of a file contains a digest of all files, so browsers keep files for ever and request new ones after an
    upgrade. Scripts import each other by relative URLs, which contain the same digest.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path = STATIC) -> None:
        self._assets: dict[str, Asset] = {}
        digest = hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name, content = path.relative_to(folder).as_posix(), path.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
            suffix = path.suffix.lower()
            media_type = _MEDIA_TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
            compressed = gzip.compress(content, 9, mtime=0) if suffix in _COMPRESSED else None
            self._assets[name] = Asset(content, compressed, media_type)
        self.digest = digest.hexdigest()[:12]

    def url(self, name: str) -> str:
        """Return the path of a file.

        Raises:
            KeyError: There is no such file.
        """
        self._assets[name]
        return f"{PREFIX}/{self.digest}/{name}"

    def find(self, digest: str, name: str) -> Asset | None:
        """Return a file; None if there is none with this name, or if the digest is that of another version."""
        return self._assets.get(name) if digest == self.digest else None
