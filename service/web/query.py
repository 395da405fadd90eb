"""Strict reading of the query of pages: a parameter that the page does not have is refused, not ignored."""

from __future__ import annotations

from collections import Counter
from typing import Any
from urllib.parse import parse_qsl

from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Param
from fastapi.params import Query as QueryParameter
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from service.schemas.violations import OWN, UNKNOWN


async def require_known_query(connection: HTTPConnection) -> None:
    """Refuse parameters that the page does not have, or that are repeated. It is a dependency of every page.

    Raises:
        RequestValidationError: The query has such a parameter.
    """
    route = connection.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    query = connection.scope.get("query_string", b"").decode("latin-1")
    counts = Counter(name for name, _ in parse_qsl(query, keep_blank_values=True))
    fields = get_flat_params(route.dependant)
    # The fields of a model with the parameters of a query are no parameters themselves.
    known = {
        field.alias
        for field in fields
        if isinstance(field.field_info, QueryParameter) or not isinstance(field.field_info, Param)
    }
    violations: list[dict[str, Any]] = [
        {"loc": ("query", name), "msg": "", "type": UNKNOWN} for name in counts if name not in known
    ]
    repeated = [name for name, count in counts.items() if count > 1 and name in known]
    message = "given several times; give it once"
    violations += [{"loc": ("query", name), "msg": message, "type": OWN} for name in repeated]
    if violations:
        raise RequestValidationError(violations)
