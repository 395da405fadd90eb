"""What the framework cannot know about our OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.schemas.problem import Problem
from service.schemas.proposal import ProposalRequest
from service.schemas.recipe import RecipeChange


def describe(app: FastAPI) -> None:
    """Complete the generated OpenAPI document: the schemas that problem responses and hand-read bodies refer to."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = generate().setdefault("components", {}).setdefault("schemas", {})
            _, more = models_json_schema(
                [(model, "validation") for model in (Problem, RecipeChange, ProposalRequest)],
                ref_template="#/components/schemas/{model}",
            )
            schemas |= more["$defs"]
        assert app.openapi_schema is not None
        return app.openapi_schema

    # The way the framework documents for changing the document.
    app.openapi = complete  # type: ignore[method-assign]


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """A query that a route reads by hand, because only some kinds of body go with it."""
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.get("description", "")}
        for name, schema in model.model_json_schema()["properties"].items()
    ]
