"""Violations of a schema in plain words.

This is the only place that describes the errors of pydantic to users. `violation_texts` has a text for each type of
error; a type without one gets a general text, so the texts of the library are never shown. A violation contains the
values of its text as `params`, so that pages can show the text in another language.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, LiteralString

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from service.schemas.violation_texts import GENERAL, OBJECT, TEXTS, fill, kind_of, template_of

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


def violated(kind: LiteralString, **params: str | float) -> PydanticCustomError:
    """Return the error that a validator of ours raises.

    Args:
        kind: Type of the violation, one of `TEXTS`.
        params: The values of its text.
    """
    return PydanticCustomError(kind, TEXTS[kind], params)


def violation(loc: Sequence[str | int], kind: str, **params: str | float) -> dict[str, Any]:
    """Return a violation that was not found by pydantic, as `list_violations` returns those that were.

    Args:
        loc: Its location.
        kind: Its type, one of `TEXTS`.
        params: The values of its text.
    """
    return describe_item({"loc": tuple(loc), "type": kind, "ctx": params, "input": None})


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
        found.append(violation((), FURTHER, count=rest))
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
    """Return one violation: location, message, type, and the values in the message.

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
    params = _params(item)
    found = {"loc": loc, "msg": _text(item, loc[prefix:], names, term), "type": kind}
    return found | {"params": params} if params else found


def _params(item: Mapping[str, Any]) -> dict[str, str | float]:
    """Return the values in the message of an error that a JSON document can contain."""
    found = {name: value for name, value in (item.get("ctx") or {}).items() if isinstance(value, str | int | float)}
    for name in ("error", "tag"):  # a text of the library; what the client sent, of any length
        found.pop(name, None)
    if "{kind}" in TEXTS.get(item["type"], ""):
        found["kind"] = kind_of(item.get("input"))
    return found


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
        case "extra_forbidden":
            return unknown_name(str(path[-1]) if path else "", names.known(path[:-1]) if names else (), term)
        case "missing" if not path or value is None:
            return _describe_absent(path, names)
    template = template_of(kind, context) or GENERAL
    if template.endswith(OBJECT) and names is not None and (fields := sorted(names.known(path))):
        template = template.replace(OBJECT, f"expected an object with fields of these names: {', '.join(fields)}")
    return fill(template, _params(item) | {name: context[name] for name in ("tag",) if name in context})


def _describe_absent(path: Sequence[str | int], names: Names | None) -> str:
    """Return the message for a whole document or a field that is missing."""
    fields = [f"`{name}`" for name in names.required(path)] if names else []
    if path:
        return TEXTS[MISSING]
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
