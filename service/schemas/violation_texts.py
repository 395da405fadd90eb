"""Texts of violations of a schema, by type of error: those of pydantic and those of our own checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from service.schemas.common import KEY_PATTERN, LABEL_PATTERN, SENTENCE_PATTERN

GENERAL = "does not have the expected form; see the documentation of this value"
_TIME = "is not a time in ISO 8601; give one such as 2026-03-01T08:30:00Z"
EMPTY = "is empty; give a text"
_WHOLE = "expected a whole number such as 20"
_NUMBER = "expected a number such as 0.5"
OBJECT = "expected an object with named fields"

TEXTS: Mapping[str, str] = {
    "bool_parsing": "is not a truth value; expected true or false",
    "bool_type": "is {kind}, expected true or false",
    "bytes_type": "is {kind}, expected text",
    "dataclass_type": "is {kind}, " + OBJECT,
    "date_from_datetime_parsing": "is not a date in ISO 8601; give one such as 2026-03-01",
    "date_parsing": "is not a date in ISO 8601; give one such as 2026-03-01",
    "date_type": "is {kind}, expected a date such as 2026-03-01",
    "datetime_from_date_parsing": _TIME,
    "datetime_object_invalid": _TIME,
    "datetime_parsing": _TIME,
    "datetime_type": "is {kind}, expected a time such as 2026-03-01T08:30:00Z",
    "dict_type": "is {kind}, " + OBJECT,
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
    "is_instance_of": GENERAL,
    "iterable_type": "is {kind}, expected a list",
    "json_type": "is {kind}, expected a JSON document",
    "less_than": "is not less than {lt}; give a number less than {lt}",
    "less_than_equal": "is greater than {le}; give a number of at most {le}",
    "list_type": "is {kind}, expected a list",
    "literal_error": "is not an accepted value; expected {expected}",
    "mapping_type": "is {kind}, " + OBJECT,
    "missing": "is missing; it is required",
    "model_attributes_type": "is {kind}, " + OBJECT,
    "model_type": "is {kind}, " + OBJECT,
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
    "too_short": "has too few items ({actual_length}); expected at least {min_length}",
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
    # Our own checks.
    "area_empty": "the ignore polygons cover the whole ROI or image, so nothing would be judged",
    "bit_depth": "pixels.bit_depth {depth} exceeds the bit depth of {pixel_format}",
    "corner_outside": "{polygons} polygon {number} has a corner at ({x}, {y}), outside the image declared by "
    "pixels.width and pixels.height",
    "decision_twice": "storage.keep_longer names a decision twice",
    "edges_intersect": "the edge after point {first} intersects the edge after point {second}; use two polygons "
    "instead",
    "error_of_failure": "error is needed for the outcome failed, and for no other",
    "further_violations": "{count} further violations are not listed",
    "grant_expired": "it would have expired already ({time} UTC); state a time in the future",
    "grant_of_admin": "a key that manages keys could create one without restriction; leave out `admin`",
    "grant_of_every_station": "recipes, bundles and keys apply to all stations, so a key for certain stations cannot "
    "have the scope {scope!r}",
    "grant_without_product": "its list of products is empty; state a product, or leave the restriction out",
    "grant_without_scope": "it has no scope; state at least one of inspect, review, engineer, admin",
    "grant_without_station": "its list of stations is empty; state a station, or leave the restriction out",
    "heatmap_order": "heatmap.low {low} is not below heatmap.high {high}",
    "heatmap_scale": "The heatmap's scale would run from {low} to {high}. heatmap.low (by default the median of good "
    "maps) must be below heatmap.high (by default the fail threshold)",
    "ids_or_label": "give either ids or label; since and until belong to label",
    "ids_or_period": "give either ids, or since and until",
    "kind_without_defect": "kind is the kind of a defect: omit it, or give the label defect",
    "level_order": "pixels.black_level {black} is not below white_level {white}",
    "levels_too_large": "pixels.black_level and white_level must fit into {depth} bits",
    "limit_above_calibration": "quality.{lower} {low} is above {upper} {high}, which follows from the calibration "
    "images, so no image could pass the quality check; lower it, or set quality.{upper} as well",
    "limit_below_calibration": "quality.{upper} {high} is below {lower} {low}, which follows from the calibration "
    "images, so no image could pass the quality check; raise it, or set quality.{lower} as well",
    "limit_order": "quality.{lower} {low} is above quality.{upper} {high}, so no image could pass the quality check; "
    "expected {lower} <= {upper}",
    "name_not_printable": "the name must have 1 to {maximum} printable characters",
    "name_reserved": "the name {name!r} is reserved; choose another one",
    "no_change": "name at least one value to change",
    "not_confirmed": "must be true: the author must confirm that all of these parts are good",
    "not_ids": "expected ids of inspections (UUIDs), separated by commas",
    "password_has_name": "the password must not contain the name of the account",
    "password_too_long": "the password must have at most {maximum} characters",
    "password_too_short": "the password must have at least {minimum} characters",
    "password_too_uniform": "the password must have at least three different characters",
    "period_empty": "The period from {since} to {until} is empty. Give a start `since` that is earlier than the end "
    "`until`, which is now by default",
    "period_not_divisible": "The period cannot be divided in this time zone. Give a later one",
    "period_order": "since must be before until",
    "period_too_early": "the period begins before the year 1. Give a later end",
    "period_too_long": "The period has more than {days} days. Give a shorter one with `since` and `until`",
    "period_without_local_time": "The period has no local time in this time zone. Give another one",
    "point_repeated": "the point ({x}, {y}) is repeated; polygons are closed automatically, so omit the repeated point",
    "polygon_too_small": "it encloses {area} square pixels; the minimum is 1",
    "rate_missing": "review_rate and extrapolate need target_false_reject_rate",
    "rate_not_certifiable": "{images} good images can certify a false-reject rate of {smallest} at best; {rate} needs "
    "{needed} images",
    "rate_order": "The review rate {review_rate} is smaller than the false-reject rate {rate}. It must be at least as "
    "large, because parts that fail are also above the review threshold",
    "score_order": "min_score must not be greater than max_score",
    "threshold_order": "review_threshold {review} is above fail_threshold {fail}; expected review_threshold <= "
    "fail_threshold",
    "thresholds_incomplete": "thresholds set by hand need both fail_threshold and review_threshold",
    "too_many_ids": "has {count} ids; at most {maximum} are allowed in one request",
    "two_ways": "give one of: fail_threshold and review_threshold; target_false_reject_rate; proposal_id",
    "unknown_decision": "expected 'pass', 'review', 'fail' or 'invalid', or several of them separated by commas",
}
"""Texts by type of error. `{kind}` is the kind of the rejected value; the other names are parameters."""
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


def template_of(kind: str, params: Mapping[str, Any]) -> str | None:
    """Return the text of a violation, with placeholders such as `{count}`; None if its text is not in the table.

    Args:
        kind: Its type.
        params: Its values.
    """
    if kind == "string_pattern_mismatch":
        return PATTERN_TEXTS.get(str(params.get("pattern")))
    if kind == "string_too_short" and params.get("min_length") == 1:
        return EMPTY
    return TEXTS.get(kind)


def fill(template: str, params: Mapping[str, Any], number: Callable[[float], str] = "{:g}".format) -> str:
    """Return a text with its values.

    Args:
        template: A text with placeholders.
        params: The values.
        number: Writes a number with a fraction.
    """
    values = {name: number(value) if isinstance(value, float) else value for name, value in params.items()}
    return template.format_map(_Context(values))


def kind_of(value: object) -> str:
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
