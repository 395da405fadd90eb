"""Choose the implementation of the artefact files by the URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from service.store.artefacts.files import ArtefactFiles
from service.store.artefacts.local import LocalFiles
from service.store.artefacts.options import ArtefactOptions

FOLDER = "inspections"


def open_files(options: ArtefactOptions, data: Path) -> ArtefactFiles:
    """Return the artefact files without connecting.

    Args:
        options: Where they are.
        data: The data folder of the service.

    Raises:
        StoreUnavailable: The package for the URL is not installed.
    """
    if not options.url:
        return LocalFiles(data / FOLDER)
    if options.url.startswith("file://"):
        # As durable as in the data folder, which fsspec's local file system is not.
        return LocalFiles(Path(url2pathname(urlsplit(options.url).path)))
    from service.store.artefacts.remote import RemoteFiles  # fsspec takes time to import

    return RemoteFiles(options)
