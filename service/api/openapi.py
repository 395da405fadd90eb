"""Additions to the OpenAPI document that FastAPI generates."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.schemas.open_inference import InferError, InferRequest
from service.schemas.problem import Problem
from service.schemas.proposal import ProposalRequest
from service.schemas.recipe import RecipeChange


def describe(app: FastAPI) -> None:
    """Add the schemas of problem responses and of bodies that routes parse themselves to the OpenAPI document."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        is_cached = app.openapi_schema is not None
        document = generate()
        if not is_cached:
            _, more = models_json_schema(
                [(model, "validation") for model in (Problem, RecipeChange, ProposalRequest, InferRequest, InferError)],
                ref_template="#/components/schemas/{model}",
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(more["$defs"])
        return document

    # FastAPI documents this way of extending the document.
    app.openapi = complete  # type: ignore[method-assign]


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the OpenAPI parameters of a query that a route parses itself.

    FastAPI cannot declare such a query, because it belongs to some of the body's media types only.
    """
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.get("description", "")}
        for name, schema in model.model_json_schema()["properties"].items()
    ]
