"""Strict reading of the query: nothing in it is ignored, replaced or guessed."""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection

from service.errors import InvalidRequest

_WRONG_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def require_declared_query(connection: HTTPConnection) -> None:
    """Refuse a query with parameters that the operation does not declare, that are repeated, or that are not UTF-8.

    It is a dependency of every route, and compares the query with the OpenAPI document. The framework ignores unknown
    parameters, takes the last of repeated ones, and replaces bytes that are not UTF-8.

    Raises:
        InvalidRequest: The query is not valid.
    """
    query: bytes = connection.scope.get("query_string", b"")
    if not query or connection.scope["type"] != "http":
        return
    if _WRONG_ESCAPE.search(query):
        raise _invalid("query", "has a % that is not followed by two hexadecimal digits")
    try:
        names = [name for name, _ in parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")]
    except UnicodeDecodeError as error:
        raise _invalid("query", "is not percent-encoded UTF-8") from error
    declared = _declared(connection)
    for name, count in Counter(names).items():
        if name not in declared:
            expected = f"expected {', '.join(declared)}" if declared else "this operation has none"
            raise _invalid(name, f"is not a query parameter of this operation; {expected}")
        if count > 1:
            raise _invalid(name, f"is given {count} times in the query; give it once")


def _declared(connection: HTTPConnection) -> list[str]:
    """Return the names of the query parameters of the operation."""
    scope = connection.scope
    operation = scope["app"].openapi()["paths"].get(scope["route"].path_format, {}).get(scope["method"].lower(), {})
    return [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]


def _invalid(name: str, what: str) -> InvalidRequest:
    subject = "The query" if name == "query" else repr(name)
    return InvalidRequest(f"{subject} {what}.", [{"loc": ["query", name], "msg": what, "type": "query"}])
