"""Additions to the OpenAPI document that FastAPI generates."""

from __future__ import annotations

import threading
from typing import Any

from fastapi import FastAPI, Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response
from starlette.routing import Route, compile_path, request_response

from service.access.errors import (
    ConflictingCredentials,
    CsrfFailed,
    InsufficientScope,
    InvalidKey,
    NotAuthenticated,
    NotPermitted,
)
from service.api.http.access import CSRF_HEADER, SECURE_SESSION_COOKIE, SESSION_COOKIE, operations_of, requires
from service.api.http.aws_errors import AWS_PREFIX, aws_responses
from service.api.http.problems import add_problems
from service.api.http.unknown_names import require_document
from service.schemas.open_inference import InferError, InferRequest
from service.schemas.problem import Problem
from service.schemas.proposal import ProposalRequest
from service.schemas.recipe import RecipeChange
from service.schemas.training import GoodImageSelection
from service.store.errors import StoreUnavailable

_BODIES: tuple[type[BaseModel], ...] = (
    Problem, RecipeChange, ProposalRequest, GoodImageSelection, InferRequest, InferError,
)  # fmt: skip


def describe(app: FastAPI) -> None:
    """Add the schemas of problem responses and of bodies that routes parse themselves to the OpenAPI document."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            # FastAPI makes the fields of a query at its first use. If two threads did so at once, the document, which
            # identifies fields by the object, could not be made.
            get_flat_params(context.original_route.dependant)
    generate = app.openapi
    # Requests read the document on several threads, and it is made by the first one. Those that follow do not wait for
    # a lock: some of them read it on the event loop, after `require_document`.
    lock = threading.Lock()
    app.state.is_described = False

    def complete() -> dict[str, Any]:
        if app.state.is_described:
            return generate()
        with lock:
            return make()

    def make() -> dict[str, Any]:
        document = generate()
        if not app.state.is_described:
            _, more = models_json_schema(
                [(model, "validation") for model in _BODIES],
                ref_template="#/components/schemas/{model}",
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(more["$defs"])
            _describe_access(app, document)
            for path, operations in document["paths"].items():
                if path.startswith(AWS_PREFIX):
                    for operation in operations.values():
                        operation["responses"] = aws_responses(operation["responses"])
            app.state.is_described = True
        return document

    # FastAPI documents this way of extending the document.
    app.openapi = complete  # type: ignore[method-assign]


def serve_document(app: FastAPI) -> None:
    """Let the endpoint of the document make it on a thread. FastAPI's own makes it on the event loop."""
    route = next(one for one in app.routes if isinstance(one, Route) and one.path == app.openapi_url)
    original = route.endpoint

    async def read(request: Request) -> Response:
        await require_document(app)
        response: Response = await original(request)
        return response

    requires(None)(read)
    route.endpoint, route.app = read, request_response(read)


def _describe_access(app: FastAPI, document: dict[str, Any]) -> None:
    """Add the security schemes, and what each operation needs."""
    document["components"]["securitySchemes"] = _SCHEMES
    for operation in operations_of(app.routes):
        path = compile_path(operation.path)[1]
        for method in operation.methods or ():
            described = document["paths"].get(path, {}).get(method.lower())
            if described is None:
                continue  # a page for people
            scope = operation.rule.scope
            if scope is None:
                described["security"] = []
                continue
            roles = [] if scope == "any" else [scope]
            described["security"] = [{name: roles} for name in _SCHEMES]
            add_problems(path, described["responses"], *_EVERY_PROTECTED)
            if roles:
                add_problems(path, described["responses"], InsufficientScope, NotPermitted)
            if method != "GET":
                add_problems(path, described["responses"], CsrfFailed)


_EVERY_PROTECTED = (ConflictingCredentials, NotAuthenticated, InvalidKey, StoreUnavailable)
_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key. As long as there is neither a key nor an account, the service accepts requests of "
        "its own machine without credentials.",
    },
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": f"The session of a person; with TLS the cookie has the name `{SECURE_SESSION_COOKIE}`. Requests "
        f"that change something also need the header `{CSRF_HEADER}`.",
    },
}


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the OpenAPI parameters of a query that a route parses itself.

    FastAPI cannot declare such a query, because it belongs to some of the body's media types only.
    """
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.get("description", "")}
        for name, schema in model.model_json_schema()["properties"].items()
    ]
