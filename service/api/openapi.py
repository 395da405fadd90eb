"""What the framework cannot know about our OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.api.problems import Problem


def describe(app: FastAPI) -> None:
    """Complete the generated OpenAPI document: the schema that every problem response refers to."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = generate().setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        assert app.openapi_schema is not None
        return app.openapi_schema

    # The way the framework documents for changing the document.
    app.openapi = complete  # type: ignore[method-assign]
