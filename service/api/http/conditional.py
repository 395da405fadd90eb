"""Conditional requests: what a client has already is not sent again (RFC 9110, section 13)."""

from __future__ import annotations

from starlette.datastructures import Headers


def is_unchanged(headers: Headers, tag: str) -> bool:
    """Return whether the `If-None-Match` header of a request names an entity tag.

    Args:
        headers: Headers of the request.
        tag: The entity tag of the current representation, with its quotation marks.
    """
    given = ",".join(headers.getlist("if-none-match"))
    # The comparison is weak (section 13.1.2).
    names = [name.strip().removeprefix("W/") for name in given.split(",")]
    return "*" in names or tag in names
