"""The API key of a client."""

from __future__ import annotations

import os
import re

API_KEY = "PLUMBLINE_API_KEY"
"""Environment variable with the API key."""
CA_FILE = "PLUMBLINE_CA_FILE"
"""Environment variable with the file or folder of CA certificates."""
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")


def key_header(api_key: str | None, *, is_allowed_from_environment: bool = True) -> dict[str, str]:
    """Return the header that authenticates a request; none without a key.

    Args:
        api_key: The key; None to use the environment variable, if it is set.
        is_allowed_from_environment: Whether the environment variable is used.

    Raises:
        ValueError: The key has characters that no key has. The message does not contain the key.
    """
    source = "api_key"
    if api_key is None and is_allowed_from_environment:
        # A file that ends with a line break is a common source of the variable.
        api_key, source = os.environ.get(API_KEY, "").strip() or None, API_KEY
    if api_key is None:
        return {}
    if not _KEY.fullmatch(api_key):
        raise ValueError(f"{source} is not an API key: it has spaces, line breaks or other characters that no key has")
    return {"Authorization": f"Bearer {api_key}"}
