"""Folders of the server and the address of its database in texts for clients.

They are replaced by names, because they describe the machine and not the request. The log has them. The name of a
folder that is a setting is that of the setting, written as in a path: `$PLUMBLINE_MODELS/bracket`.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import make_url

from service.settings import PREFIX, Settings
from service.store.database import name_of, sqlite_path


class ServerPaths:
    """Folders of the server and the address of its database, and the names that clients see instead of them.

    Args:
        settings: The folders and the database of the service.
    """

    def __init__(self, settings: Settings) -> None:
        database = sqlite_path(settings.database)
        names: dict[Path, str] = {
            Path(sys.prefix): "PYTHON",
            Path(tempfile.gettempdir()): "TEMP",
            Path.home(): "HOME",
            Path.cwd(): "WORKING_FOLDER",
        }
        if database is not None:
            names |= {database.parent: "DATABASE_FOLDER"}
        if (artefacts := _folder_of(settings.artefacts_url)) is not None:
            names |= {artefacts: f"${PREFIX}ARTEFACTS_URL"}
        if (bundles := _folder_of(settings.bundle_store)) is not None:
            names |= {bundles: f"${PREFIX}BUNDLE_STORE"}
        names |= {settings.models: f"${PREFIX}MODELS", settings.data: f"${PREFIX}DATA"}
        spelled = {str(form): name for path, name in names.items() for form in (path.absolute(), path.resolve())}
        self._names = {text: name for text, name in spelled.items() if text != path_root(text)}
        # Longest first: a folder inside another one has the more specific name.
        alternatives = "|".join(re.escape(text) for text in sorted(self._names, key=len, reverse=True))
        # Not inside of a word or of a longer path: `/data` must not match in a URL such as `https://host/data`.
        self._pattern = re.compile(rf"(?<![\w./:~-])(?:{alternatives})(?![\w-]|\.\w)") if alternatives else None
        # In the forms that the messages of the store have: "the database user@host/name", and the address alone.
        address = None if database is not None else re.escape(name_of(make_url(settings.database)))
        self._database = (
            None if address is None else re.compile(rf"(?<![\w./:@-])(?:([Tt])he database )?{address}(?![\w-])")
        )

    def hide(self, text: str) -> str:
        """Return a text in which the folders of the server and the address of its database are replaced."""
        if self._database is not None:
            text = self._database.sub(lambda match: f"{match[1] or 't'}he PostgreSQL database", text)
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._names[match[0]], text)


def _folder_of(url: str) -> Path | None:
    """Return the folder of a `file://` URL; None for any other."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" and parts.path else None


def path_root(path: str) -> str:
    """Return the root of an absolute path, such as `/`. It occurs in every URL, so it is not replaced."""
    return Path(path).anchor


SERVER_PATHS: ContextVar[ServerPaths | None] = ContextVar("server_paths", default=None)
"""The folders of the application that handles the current request; set by `RequestContext`."""


def hide_paths(text: str) -> str:
    """Return a text for a client, without folders of the server."""
    paths = SERVER_PATHS.get()
    return text if paths is None else paths.hide(text)


def hide_paths_in(value: Any) -> Any:
    """Return a JSON value in which every text is without folders of the server."""
    if isinstance(value, str):
        return hide_paths(value)
    if isinstance(value, Mapping):
        return {key: hide_paths_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_paths_in(item) for item in value]
    return value
