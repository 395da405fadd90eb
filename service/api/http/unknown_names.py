"""Explanations of unknown names in requests: misspelt query parameters and fields."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import Request

UNKNOWN = "extra_forbidden"
"""Type of pydantic's error for a name that the model does not have."""
_PREFIX = "#/components/schemas/"
_MAX_NAME = 100


def explain(request: Request, loc: Sequence[str | int]) -> str:
    """Return the message for a name that the operation does not have, with what it may have been meant to be.

    Args:
        request: The request. The OpenAPI document of its application lists the names that its operation has.
        loc: Location of the name: "query" or "body", then the path of names and positions to it.
    """
    kind = "parameter" if loc[0] == "query" else "field"
    name = str(loc[-1])
    known = sorted(known_names(request, loc))
    message = f"unknown {kind} `{name[:_MAX_NAME]}`"
    if close := difflib.get_close_matches(name[:_MAX_NAME], known, 1):
        return f"{message} (did you mean `{close[0]}`?)"
    return f"{message} (expected one of: {', '.join(known)})" if known else message


def known_names(request: Request, loc: Sequence[str | int]) -> set[str]:
    """Return the names that the operation has beside the one at a location, by its OpenAPI description."""
    document = request.app.openapi()
    path = getattr(request.scope.get("route"), "path_format", "")
    operation = document["paths"].get(path, {}).get(request.method.lower(), {})
    if loc[0] == "query":
        return {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"}
    contents = operation.get("requestBody", {}).get("content", {})
    schemas = [content.get("schema", {}) for kind, content in contents.items() if kind.endswith("json")]
    for step in loc[1:-1]:
        schemas = [inner for schema in schemas for inner in _descend(document, schema, step)]
    return {name for schema in schemas for one in _alternatives(document, schema) for name in one.get("properties", {})}


def _descend(document: Mapping[str, Any], schema: Mapping[str, Any], step: str | int) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas of a property or, for a position, of the items."""
    for one in _alternatives(document, schema):
        inner = one.get("items") if isinstance(step, int) else one.get("properties", {}).get(step)
        if isinstance(inner, Mapping):
            yield inner


def _alternatives(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas that a schema stands for, with references resolved."""
    if reference := schema.get("$ref"):
        yield from _alternatives(document, document["components"]["schemas"][reference.removeprefix(_PREFIX)])
        return
    yield schema
    for inner in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _alternatives(document, inner)
