"""Failures of recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import PlumblineError


class InvalidRecipe(PlumblineError):
    slug = "invalid-recipe"
    title = "Invalid recipe"
    status = 422

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(f"{detail} Nothing was changed.", errors=[dict(error) for error in errors])
