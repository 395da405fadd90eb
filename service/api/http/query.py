"""Strict reading of the query: nothing in it is ignored, replaced or guessed."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.requests import HTTPConnection

from service.api.http.unknown_names import parameter_names, require_document
from service.schemas.violations import OWN, UNKNOWN

_WRONG_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


async def require_declared_query(connection: HTTPConnection) -> None:
    """Refuse a query with parameters that the operation does not declare, that are repeated, or that are not UTF-8.

    It is a dependency of every route, and compares the query with the OpenAPI document. The framework ignores unknown
    parameters, takes the last of repeated ones, and replaces bytes that are not UTF-8.

    Raises:
        RequestValidationError: The query is not valid.
    """
    query: bytes = connection.scope.get("query_string", b"")
    if not query or connection.scope["type"] != "http":
        return
    if _WRONG_ESCAPE.search(query):
        raise RequestValidationError([_violation("has a % that is not followed by two hexadecimal digits")])
    try:
        names = [name for name, _ in parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")]
    except UnicodeDecodeError as error:
        raise RequestValidationError([_violation("is not percent-encoded UTF-8")]) from error
    await require_document(connection.app)
    declared = parameter_names(Request(connection.scope))
    violations: list[dict[str, Any]] = []
    for name, count in Counter(names).items():
        if name not in declared:
            violations.append({"loc": ("query", name), "msg": "", "type": UNKNOWN})
        elif count > 1:
            violations.append(_violation(f"given {count} times; give it once", name))
    if violations:
        raise RequestValidationError(violations)


def _violation(message: str, *name: str) -> dict[str, Any]:
    return {"loc": ("query", *name), "msg": message, "type": OWN}
