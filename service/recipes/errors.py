"""Errors of recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import PlumblineError


class InvalidRecipe(PlumblineError):
    """The recipe, or a change of it, is not valid. The recipe in force stays as it was.

    `errors` lists the violations, at most 20 of them, each with location (`loc`), text (`msg`), type and the values of
    the text (`params`). Correct the values and send the change again.
    """

    slug = "invalid-recipe"
    title = "Invalid recipe"
    status = 422

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(f"{detail} Nothing was changed.", errors=[dict(error) for error in errors])
