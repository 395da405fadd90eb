"""Settings from outside, checked against the dataclass that they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from training.errors import InvalidFitConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def checked(kind: type[DataclassInstance], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns what is given, each value as its field wants it; lists become tuples and texts paths where these belong.

    A dataclass checks nothing by itself: `iterations=5.5` would train half a step, and a text would fail hours later.

    Args:
        kind: a dataclass.
        given: JSON values (tuples for lists) by the names of its fields.
        what: what a field is called in an error, for instance "option".

    Raises:
        InvalidFitConfig: a name is no field, or a value is of another type.
    """
    hints = get_type_hints(kind)
    if unknown := sorted(set(given) - set(hints)):
        raise InvalidFitConfig(f"There is no {what} {', '.join(unknown)}; choose from {', '.join(sorted(hints))}.")
    return {name: _as(hints[name], value, f"{what} {name}") for name, value in given.items()}


def _as(hint: Any, value: Any, called: str) -> Any:
    try:
        # Strict, as JSON: a number is no text and true is no number, but a list is a tuple.
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise InvalidFitConfig(f"The {called} is {value!r}: {problem[0].lower()}{problem[1:]}.") from error
