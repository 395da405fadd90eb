"""Names of keys and accounts, which are recorded as the authors of changes."""

from __future__ import annotations

import unicodedata

from service.schemas.common import SYSTEM_AUTHOR

_RESERVED = {SYSTEM_AUTHOR, "local", "anonymous"}


def comparable(name: str) -> str:
    """Return a name in the form in which names are compared: case, width and composition do not matter."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).strip().casefold())


def is_reserved(name: str) -> bool:
    """Return whether the audit log uses a name for changes that no key and no account makes."""
    return comparable(name) in _RESERVED
