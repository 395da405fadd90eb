"""The names that an operation accepts in its query and in its body, from the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from service.schemas.violations import Names, describe_item

# A + in a query stands for a space.
_LOST_PLUS = re.compile(r"\d \d\d:?\d\d$")


async def require_document(app: FastAPI) -> None:
    """Make the OpenAPI document, unless it is made already: on a thread, because it takes a second.

    Call it on the event loop before the document is read there.
    """
    if not app.state.is_described:
        await run_in_threadpool(app.openapi)


def parameter_names(request: Request) -> set[str]:
    """Return the names of the query parameters of the operation."""
    parameters = _operation(request).get("parameters", [])
    return {parameter["name"] for parameter in parameters if parameter["in"] == "query"}


def describe_violation(request: Request, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return location, message and type of a violation in a request.

    Args:
        request: The request. The OpenAPI document of its application lists the names that its operation has.
        item: An error as pydantic lists it. Its location begins with the part of the request, such as "query" or
            "body".
    """
    is_query = item["loc"][0] == "query"
    names = _query_names(request) if is_query else _body_names(request)
    found = describe_item(item, names, prefix=1, term="parameter" if is_query else "field")
    if is_query and "datetime" in item["type"] and _LOST_PLUS.search(str(item.get("input", ""))):
        found["msg"] += "; in a URL, write the + of a time zone as %2B, such as 2026-03-01T08:30:00%2B01:00"
    return found


def _query_names(request: Request) -> Names:
    return Names({}, [{"properties": {name: {} for name in parameter_names(request)}}])


def _body_names(request: Request) -> Names:
    contents = _operation(request).get("requestBody", {}).get("content", {})
    schemas = [content.get("schema", {}) for kind, content in contents.items() if kind.endswith("json")]
    return Names(request.app.openapi(), schemas)


def _operation(request: Request) -> Mapping[str, Any]:
    """Return the description of the operation that the request calls."""
    path = getattr(request.scope.get("route"), "path_format", "")
    operation: Mapping[str, Any] = request.app.openapi()["paths"].get(path, {}).get(request.method.lower(), {})
    return operation
