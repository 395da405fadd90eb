"""Violations of a schema in plain words.

This is the only place that describes the errors of pydantic to users. The table below has a text for each type of
error; a type without one gets a general text, so the texts of the library are never shown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from service.schemas.common import KEY_PATTERN, LABEL_PATTERN, SENTENCE_PATTERN

UNKNOWN = "extra_forbidden"
"""Type of the error for a name that the schema does not have."""
MISSING = "missing"
"""Type of the error for a name that the schema requires."""
OWN = "invalid_query"
"""Type of a violation that was not found by pydantic. Its message is our own."""
FURTHER = "further_violations"
"""Type of the last violation of a list that leaves others out."""
MAX_LISTED = 20
"""Most violations that a list describes. A short request can contain any number of them, and each takes time."""
_NAMING = (UNKNOWN, MISSING, "model_type", "model_attributes_type")  # their texts name fields
_MAX_NAME = 100
_TOO_SHORT = "too_short"
_MARKS = ("[key]",)  # pydantic adds them to the location of a wrong key
_JSON_PLACE = re.compile(r" at line (\d+) column (\d+)$")
_GENERAL = "does not have the expected form; see the documentation of this value"
_TIME = "is not a time in ISO 8601; give one such as 2026-03-01T08:30:00Z"
_WHOLE = "expected a whole number such as 20"
_NUMBER = "expected a number such as 0.5"
_OBJECT = "expected an object with named fields"

# Texts by type of error. `{kind}` is the kind of the rejected value; the other names are those of pydantic's context.
_TEXTS: Mapping[str, str] = {
    "bool_parsing": "is not a truth value; expected true or false",
    "bool_type": "is {kind}, expected true or false",
    "bytes_type": "is {kind}, expected text",
    "dataclass_type": "is {kind}, " + _OBJECT,
    "date_from_datetime_parsing": "is not a date in ISO 8601; give one such as 2026-03-01",
    "date_parsing": "is not a date in ISO 8601; give one such as 2026-03-01",
    "date_type": "is {kind}, expected a date such as 2026-03-01",
    "datetime_from_date_parsing": _TIME,
    "datetime_object_invalid": _TIME,
    "datetime_parsing": _TIME,
    "datetime_type": "is {kind}, expected a time such as 2026-03-01T08:30:00Z",
    "dict_type": "is {kind}, " + _OBJECT,
    "enum": "is not an accepted value; expected {expected}",
    "finite_number": "is not a finite number; " + _NUMBER,
    "float_parsing": "is not a number; give one such as 0.5",
    "float_type": "is {kind}, " + _NUMBER,
    "frozen_set_type": "is {kind}, expected a list",
    "greater_than": "is not greater than {gt}; give a number greater than {gt}",
    "greater_than_equal": "is less than {ge}; give a number of at least {ge}",
    "int_from_float": "has a fraction; " + _WHOLE,
    "int_parsing": "is not a whole number; give one such as 20",
    "int_parsing_size": "has too many digits; give a smaller number",
    "int_type": "is {kind}, " + _WHOLE,
    "invalid_key": "is not a name; names must be text",
    "is_instance_of": _GENERAL,
    "iterable_type": "is {kind}, expected a list",
    "json_type": "is {kind}, expected a JSON document",
    "less_than": "is not less than {lt}; give a number less than {lt}",
    "less_than_equal": "is greater than {le}; give a number of at most {le}",
    "list_type": "is {kind}, expected a list",
    "literal_error": "is not an accepted value; expected {expected}",
    "mapping_type": "is {kind}, " + _OBJECT,
    MISSING: "is missing; it is required",
    "model_attributes_type": "is {kind}, " + _OBJECT,
    "model_type": "is {kind}, " + _OBJECT,
    "multiple_of": "is not a multiple of {multiple_of}; give one",
    "none_required": "must be omitted or null",
    "path_type": "is {kind}, expected the path of a file or folder",
    "recursion_loop": "is nested too deeply",
    "set_type": "is {kind}, expected a list",
    "string_sub_type": "is {kind}, expected text",
    "string_type": "is {kind}, expected text",
    "string_unicode": "is not text in UTF-8",
    "timezone_aware": "has no time zone; give the time with one, such as 2026-03-01T08:30:00Z",
    "timezone_naive": "has a time zone; give the time without one",
    "too_long": "has more than the {max_length} allowed items; give fewer",
    _TOO_SHORT: "has too few items ({actual_length}); expected at least {min_length}",
    "string_too_long": "has more than {max_length} characters; shorten it",
    "string_too_short": "has less than {min_length} characters; give a longer text",
    "tuple_type": "is {kind}, expected a list",
    "union_tag_invalid": "has the unknown value {tag!r:.100} in the field {discriminator}; expected one of "
    "{expected_tags}",
    "union_tag_not_found": "has no field {discriminator}, which states its type; add it",
    "url_parsing": "is not a URL; give one such as http://host:8000",
    "url_scheme": "is not a URL of an accepted kind; expected {expected_schemes}",
    "uuid_parsing": "is not an id; expected a UUID",
    "uuid_type": "is {kind}, expected a UUID",
}
_SHA256 = "is not a SHA-256; expected 64 hexadecimal digits in lower case"
# Texts by regular expression, for values whose form is declared by one.
PATTERN_TEXTS: Mapping[str, str] = {
    LABEL_PATTERN: "is empty or contains a control character such as a tab or a line break; remove it",
    SENTENCE_PATTERN: "is empty or contains a control character; remove it",
    "^[0-9a-f]{64}$": _SHA256,
    "^[a-z0-9][a-z0-9_-]{0,63}$": "is not a name of a product; expected up to 64 lower-case letters, digits, "
    "underscores and hyphens, beginning with a letter or a digit",
    "^[a-z0-9_]{1,64}$": "is not a name of a source; expected up to 64 lower-case letters, digits and underscores",
    "^[A-Za-z0-9_]{1,128}$": "is not a name of a tensor; expected up to 128 letters, digits and underscores",
    KEY_PATTERN: "is not an idempotency key; expected 1 to 200 visible ASCII characters without spaces, such as a UUID",
    r'^"?[0-9]{1,9}"?$': 'is not a revision; give its number, such as "3"',
}


class Names:
    """The names of fields that a JSON schema declares.

    Args:
        document: The document that references of the schemas point into.
        roots: The schemas that describe the whole value, as alternatives.
    """

    def __init__(self, document: Mapping[str, Any], roots: Iterable[Mapping[str, Any]]) -> None:
        self._document = document
        self._roots = list(roots)

    def known(self, path: Sequence[str | int]) -> set[str]:
        """Return the names of the fields of the object at a path of names and positions."""
        return {name for schema in self._at(path) for name in schema.get("properties", {})}

    def required(self, path: Sequence[str | int]) -> list[str]:
        """Return the names of the required fields of the object at a path, in the order of the schema."""
        return list(dict.fromkeys(name for schema in self._at(path) for name in schema.get("required", ())))

    def _at(self, path: Sequence[str | int]) -> list[Mapping[str, Any]]:
        schemas = [one for root in self._roots for one in self._alternatives(root)]
        for step in path:
            schemas = [one for schema in schemas for inner in self._inner(schema, step) for one in inner]
        return schemas

    def _inner(self, schema: Mapping[str, Any], step: str | int) -> Iterator[Iterator[Mapping[str, Any]]]:
        """Yield the schemas of a property, of the items, or of the alternative that a discriminator names."""
        inner = schema.get("items") if isinstance(step, int) else schema.get("properties", {}).get(step)
        if isinstance(inner, Mapping):
            yield self._alternatives(inner)
        reference = schema.get("discriminator", {}).get("mapping", {}).get(step)
        if reference is not None:
            yield self._alternatives({"$ref": reference})

    def _alternatives(self, schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the schemas that a schema stands for, with references resolved."""
        if reference := schema.get("$ref"):
            target: Any = self._document
            for name in reference.removeprefix("#/").split("/"):
                target = target[name]
            yield from self._alternatives(target)
            return
        yield schema
        for inner in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            yield from self._alternatives(inner)


def list_violations(
    error: ValidationError, expected: type[BaseModel] | TypeAdapter[Any] | None = None
) -> list[dict[str, Any]]:
    """Return the violations in a pydantic error: location, message and type of each, without the rejected input.

    The input is left out because it repeats what the client sent, of any size. See `describe_items` for the limit.

    Args:
        error: The error.
        expected: The schema that the value does not fit. Messages about unknown and missing fields name its fields.
    """
    items = error.errors(include_url=False)
    names = None
    if expected is not None and any(item["type"] in _NAMING for item in items):
        schema = expected.json_schema() if isinstance(expected, TypeAdapter) else expected.model_json_schema()
        names = Names(schema, [schema])
    return describe_items(items, lambda item: describe_item(item, names))


def describe_items(
    items: Sequence[Mapping[str, Any]], describe: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the violations that a message lists: at most `MAX_LISTED`, and without those that follow from others.

    If there are more, the last one states how many are left out.

    Args:
        items: Errors as `ValidationError.errors()` lists them.
        describe: Describes one of them.
    """
    chosen = _without_consequences(items)
    found = [describe(item) for item in chosen[:MAX_LISTED]]
    if (rest := len(chosen) - MAX_LISTED) > 0:
        found.append({"loc": (), "msg": f"{rest} further violations are not listed", "type": FURTHER})
    return found


def _without_consequences(items: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return errors without lists that are too short only because their wrong items do not count."""
    if not any(item["type"] == _TOO_SHORT for item in items):
        return items
    outer = {item["loc"][:length] for item in items for length in range(len(item["loc"]))}
    return [item for item in items if item["type"] != _TOO_SHORT or item["loc"] not in outer]


def describe_item(
    item: Mapping[str, Any], names: Names | None = None, *, prefix: int = 0, term: str = "field"
) -> dict[str, Any]:
    """Return one violation: location, message and type.

    Args:
        item: An error as `ValidationError.errors()` lists it.
        names: The names of the schema; without them, messages do not name expected fields.
        prefix: Number of elements of the location that stand before the path in the schema, such as "body".
        term: What a name stands for: "field" or "parameter".
    """
    loc = tuple(_shortened(step) for step in item["loc"] if step not in _MARKS)
    kind = item["type"]
    if kind == "json_invalid" and len(loc) > prefix and isinstance(loc[-1], int):
        # The web framework states the position as the last element of the location.
        return {"loc": loc[:-1], "msg": f"is not valid JSON at character {loc[-1] + 1}; correct it", "type": kind}
    return {"loc": loc, "msg": _text(item, loc[prefix:], names, term), "type": kind}


def describe_violations(violations: Iterable[Mapping[str, Any]], whole: str = "") -> str:
    """Return violations as one text: `location: message; location: message`.

    Args:
        violations: Violations as `list_violations` returns them.
        whole: What the location of the whole document is called; without it, it is left out.
    """
    located = [(".".join(str(part) for part in item["loc"]) or whole, item["msg"]) for item in violations]
    return "; ".join(f"{place}: {text}" if place else str(text) for place, text in located)


def unknown_name(name: str, known: Iterable[str], term: str = "field") -> str:
    """Return the message for a name that is not expected, with the nearest expected one or all of them.

    Args:
        name: The name that was given.
        known: The expected names.
        term: What the name stands for.
    """
    names = sorted(known)
    message = f"unknown {term} `{name[:_MAX_NAME]}`"
    if offer := suggestion(name, names):
        return f"{message} {offer}"
    return f"{message} (expected one of: {', '.join(names)})" if names else f"{message}; remove it"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a question for the nearest expected name in parentheses, or an empty text if none is near."""
    close = difflib.get_close_matches(name[:_MAX_NAME], sorted(known), 1)
    return f"(did you mean `{close[0]}`?)" if close else ""


def _shortened(step: str | int) -> str | int:
    return step[:_MAX_NAME] if isinstance(step, str) else step


def _text(item: Mapping[str, Any], path: Sequence[str | int], names: Names | None, term: str) -> str:
    """Return the message of an error at a path of the schema."""
    kind, context, value = item["type"], item.get("ctx") or {}, item.get("input")
    match kind:
        case "value_error" | "assertion_error" | "invalid_query":
            # The texts of our own validators.
            return str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        case "json_invalid":
            return _describe_json(str(context.get("error", "")))
        case "string_pattern_mismatch":
            return PATTERN_TEXTS.get(str(context.get("pattern")), _GENERAL)
        case "string_too_short" if context.get("min_length") == 1:
            return "is empty; give a text"
        case "extra_forbidden":
            return unknown_name(str(path[-1]) if path else "", names.known(path[:-1]) if names else (), term)
        case "missing" if not path or value is None:
            return _describe_absent(path, names)
    template = _TEXTS.get(kind, _GENERAL)
    if template.endswith(_OBJECT) and names is not None and (fields := sorted(names.known(path))):
        template = template.replace(_OBJECT, f"expected an object with fields of these names: {', '.join(fields)}")
    values = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()}
    return template.format_map(_Context(values, kind=_kind(value)))


def _describe_absent(path: Sequence[str | int], names: Names | None) -> str:
    """Return the message for a whole document or a field that is missing."""
    fields = [f"`{name}`" for name in names.required(path)] if names else []
    if path:
        return _TEXTS[MISSING]
    noun = "field" if len(fields) == 1 else "fields"
    return "is missing; send a JSON object" + (f" with the {noun} {', '.join(fields)}" if fields else "")


def _describe_json(reason: str) -> str:
    """Return what is wrong with a JSON document, with its place. `reason` is the text of the parser."""
    place = _JSON_PLACE.search(reason)
    where = f" at line {place[1]}, column {place[2]}" if place else ""
    if reason.startswith("EOF"):
        return f"is not valid JSON: it ends too early{where}; send the complete document"
    if "recursion" in reason:
        return f"is nested too deeply{where}; send a simpler document"
    return f"is not valid JSON{where}; correct it"


def _kind(value: object) -> str:
    """Return the kind of a value in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case float() if not value.is_integer():
            return "a number with a fraction"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case bytes():
            return "not declared as JSON (Content-Type: application/json)"
        case Mapping():
            return "an object"
        case list() | tuple() | set() | frozenset():
            return "a list"
    return "another kind of value"


class _Context(dict[str, Any]):
    """Values of a text. A name that pydantic does not supply is left out instead of raising an error."""

    def __missing__(self, name: str) -> str:
        return "another value"
