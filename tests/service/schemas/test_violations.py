"""Violations of schemas are described in our own words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core.core_schema import ErrorType

from service.app import create_app
from service.bundle.card import CalibrationCard
from service.bundle.images import ImageHashes
from service.bundle.manifest import Manifest
from service.bundle.origins import OriginIndex
from service.recipes.recipe import Recipe
from service.recipes.toml_file import RecipeFile
from service.schemas.common import Label, UtcDatetime
from service.schemas.stream import CLIENT_MESSAGE, HELLO
from service.schemas.violation_texts import PATTERN_TEXTS
from service.schemas.violations import describe_item, describe_violations, list_violations
from service.settings import Settings
from tests.library_texts import assert_own


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    min_area_px: float = 0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    author: Label
    count: int = Field(default=1, ge=1, le=9)
    share: float = Field(default=0.5, gt=0, lt=1)
    kind: Literal["png", "jpeg"] = "png"
    at: UtcDatetime | None = None
    inner: Inner = Inner()
    names: list[Annotated[str, Field(max_length=3)]] = Field(default=[], min_length=0, max_length=2)
    rates: tuple[float, ...] = Field(default=(1, 2), min_length=2)
    flag: bool = False


def test_list_of_violations_is_limited_and_states_how_many_are_left_out() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"author": "a"} | {f"x{number}" * 100: 1 for number in range(50)})
    found = list_violations(caught.value, Outer)
    assert len(found) == 21
    assert found[-1] == {
        "loc": (),
        "msg": "30 further violations are not listed",
        "type": "further_violations",
        "params": {"count": 30},
    }
    assert describe_violations(found).endswith("; 30 further violations are not listed")
    assert max(len(str(item["loc"])) for item in found) < 120


def test_list_is_not_too_short_because_of_its_wrong_items() -> None:
    for rates, expected in (([1, "x"], [("rates", 1)]), ([1], [("rates",)])):
        with pytest.raises(ValidationError) as caught:
            Outer.model_validate({"author": "a", "rates": rates})
        assert [item["loc"] for item in list_violations(caught.value)] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "author: is missing; it is required"),
        ({"author": ""}, "author: is empty; give a text"),
        ({"author": "a\nb"}, "author: is empty or contains a control character"),
        ({"author": "x" * 200}, "author: has more than 128 characters"),
        ({"author": 3}, "author: is a number, expected text"),
        ({"author": None}, "author: is null, expected text"),
        ({"count": "many"}, "count: is not a whole number; give one such as 20"),
        ({"count": 1.5}, "count: has a fraction; expected a whole number"),
        ({"count": [1]}, "count: is a list, expected a whole number"),
        ({"count": 0}, "count: is less than 1; give a number of at least 1"),
        ({"count": 10}, "count: is greater than 9; give a number of at most 9"),
        ({"share": 0}, "share: is not greater than 0; give a number greater than 0"),
        ({"share": 1}, "share: is not less than 1; give a number less than 1"),
        ({"share": "half"}, "share: is not a number; give one such as 0.5"),
        ({"kind": "gif"}, "kind: is not an accepted value; expected 'png' or 'jpeg'"),
        ({"at": "2026-01-01T10:00:00"}, "at: has no time zone; give the time with one, such as 2026-03-01T08:30:00Z"),
        ({"at": "yesterday"}, "at: is not a time in ISO 8601; give one such as"),
        ({"inner": {"min_area": 3}}, "inner.min_area: unknown field `min_area` (did you mean `min_area_px`?)"),
        ({"inner": [3]}, "inner: is a list, expected an object with fields of these names: min_area_px"),
        ({"zzz": 3}, "zzz: unknown field `zzz` (expected one of: at, author, count,"),
        ({"names": ["a", "b", "c"]}, "names: has more than the 2 allowed items"),
        ({"names": ["long"]}, "names.0: has more than 3 characters"),
        ({"names": "a"}, "names: is text, expected a list"),
        ({"rates": [1]}, "rates: has too few items (1); expected at least 2"),
        ({"flag": "perhaps"}, "flag: is not a truth value; expected true or false"),
    ],
)
def test_violation_says_what_was_wrong_and_what_was_expected(given: dict[str, Any], expected: str) -> None:
    valid = {} if given == {} else {"author": "a"}
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(valid | given)

    text = describe_violations(list_violations(caught.value, Outer))

    assert text.startswith(expected)
    assert_own(text)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b'{"author": "a"', "is not valid JSON: it ends too early at line 1, column 14"),
        (b'{"author"\n: oops}', "is not valid JSON at line 2, column 3"),
        (b"", "is not valid JSON: it ends too early at line 1, column 0"),
        (b"[" * 500, "is nested too deeply"),
    ],
)
def test_place_of_an_error_in_json_is_named(document: bytes, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate_json(document)

    (violation,) = list_violations(caught.value, Outer)

    assert violation["msg"].startswith(expected)


def test_fields_of_the_chosen_alternative_are_named() -> None:
    with pytest.raises(ValidationError) as caught:
        CLIENT_MESSAGE.validate_python({"type": "frame", "part": {"lott": "3"}})
    assert "(did you mean `lot`?)" in list_violations(caught.value, CLIENT_MESSAGE)[0]["msg"]

    with pytest.raises(ValidationError) as caught:
        CLIENT_MESSAGE.validate_python({"type": "hello"})
    assert "the unknown value 'hello' in the field 'type'" in list_violations(caught.value, CLIENT_MESSAGE)[0]["msg"]


@pytest.mark.parametrize("kind", sorted({*get_args(ErrorType)} - {"value_error", "assertion_error"}))
def test_no_type_of_error_shows_the_text_of_the_library(kind: str) -> None:
    item = {"type": kind, "loc": ("x",), "msg": "Text of the library", "input": 3, "ctx": {"error": "Library text"}}

    text = describe_item(item)["msg"]

    assert "ibrary" not in text
    assert len(text) > 10


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for inner in schema.values():
            yield from _patterns(inner)
    if isinstance(schema, list):
        for inner in schema:
            yield from _patterns(inner)


@pytest.mark.parametrize(
    "model", [Manifest, CalibrationCard, ImageHashes, OriginIndex, Recipe, RecipeFile, Settings, HELLO, CLIENT_MESSAGE]
)
def test_every_pattern_of_a_model_has_a_text(model: Any) -> None:
    schema = model.json_schema() if isinstance(model, TypeAdapter) else model.model_json_schema()

    assert set(_patterns(schema)) <= PATTERN_TEXTS.keys()


def test_every_pattern_of_the_interface_has_a_text(tmp_path: Any) -> None:
    document = create_app(Settings(models=tmp_path / "models", data=tmp_path / "data")).openapi()

    assert set(_patterns(document)) <= PATTERN_TEXTS.keys()


def test_time_without_a_zone_is_named() -> None:
    adapter = TypeAdapter(AwareDatetime)
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(datetime(2026, 1, 1))  # noqa: DTZ001 - a time without zone is the point
    assert "has no time zone" in list_violations(caught.value)[0]["msg"]
