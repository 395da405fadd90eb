"""The dashboards, the recording rules and the alert rules as tests use them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))

# Added by the Prometheus server.
SERVER_METRICS = {"up"}
_NAME = re.compile(r"\b(?:inspection|http|process|product|route)[a-zA-Z0-9_]*(?::[a-zA-Z0-9_:]+)?|\bup\b")
# Grouping clauses and label matchers name labels, not metrics.
_LABELS = re.compile(
    r"""\{(?:[^}"]|"[^"]*")*\}|\b(?:by|without|on|ignoring)\s*\([^)]*\)|\bgroup_(?:left|right)\s*\([^)]*\)"""
)
_VARIABLE = re.compile(r"^label_values\((?P<series>.+),\s*(?P<label>\w+)\)$")
_COMPARISON = re.compile(r"==|!=|>=|<=|>|<|\b(?:and|or|unless)\b")
_MODIFIERS = re.compile(r"^\s*(?:bool\b)?\s*(?:(?:on|ignoring)\s*\([^)]*\))?\s*(?:group_(?:left|right)\s*\([^)]*\))?")


@dataclass(frozen=True)
class Query:
    """An expression of a dashboard.

    Attributes:
        where: Dashboard and panel, variable or annotation.
        text: The expression as it is written.
        labels: Labels that the legend or the text of the annotation shows.
        variables: Value of each template variable, as Grafana inserts it.
    """

    where: str
    text: str
    labels: tuple[str, ...]
    variables: dict[str, str]

    def inserted(self, **values: str) -> str:
        """Return the expression with the values of variables."""
        text = self.text
        for name, value in (self.variables | values).items():
            text = text.replace(f"${name}", value)
        return text


@dataclass(frozen=True)
class Variable:
    """A template variable whose values are those of a label."""

    where: str
    series: str
    label: str


def dashboard(path: Path) -> dict[str, Any]:
    """Return a dashboard."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def dashboard_queries(single: str = ".*") -> Iterator[Query]:
    """Yield the expressions of all panels and annotations.

    Args:
        single: Value of variables that have a single value.
    """
    for path in DASHBOARDS:
        board = dashboard(path)
        variables = {
            variable["name"]: variable.get("allValue", single)
            for variable in board["templating"]["list"]
            if variable["type"] == "query"
        }
        for annotation in board["annotations"]["list"]:
            where = f"{board['title']}, annotation {annotation['name']}"
            yield Query(where, annotation["expr"], shown_labels(annotation["textFormat"]), variables)
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                where = f"{board['title']}, panel {panel['title']}, {target['refId']}"
                yield Query(where, target["expr"], shown_labels(target["legendFormat"]), variables)


def dashboard_variables() -> Iterator[Variable]:
    """Yield the template variables that Prometheus provides."""
    for path in DASHBOARDS:
        board = dashboard(path)
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = _VARIABLE.match(variable["query"]["query"])
                assert found is not None, variable
                yield Variable(f"{board['title']}, variable {variable['name']}", found["series"], found["label"])


def rules() -> list[dict[str, Any]]:
    """Return all recording rules and alert rules."""
    found = []
    for path in sorted((PROMETHEUS / "rules").glob("*.yml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        found += [rule for group in document["groups"] for rule in group["rules"]]
    return found


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    return [rule for rule in rules() if "alert" in rule]


def metric_names(expression: str) -> set[str]:
    """Return the names of the metrics and recorded series in an expression."""
    return set(_NAME.findall(_LABELS.sub("", expression)))


def shown_labels(template: str) -> tuple[str, ...]:
    """Return the labels in a legend such as `{{product}}, {{station}}`."""
    return tuple(re.findall(r"\{\{\s*(\w+)\s*\}\}", template))


def operands(expression: str) -> list[str]:
    """Return what an alert expression compares and combines. Unlike the alert itself, these always have data."""
    pieces = [piece for piece in _split(expression) if piece]
    if len(pieces) == 1:
        inner = _unwrapped(pieces[0])
        return operands(inner) if inner != pieces[0] else pieces
    return [operand for piece in pieces for operand in operands(piece)]


def _split(expression: str) -> Sequence[str]:
    """Split an expression at the comparisons and set operators that are not in brackets."""
    pieces, start, position = [], 0, 0
    while position < len(expression):
        character = expression[position]
        if character == '"':
            position = expression.index('"', position + 1) + 1
        elif character in "([{":
            position = _closing(expression, position) + 1
        elif found := _COMPARISON.match(expression, position):
            pieces.append(expression[start:position].strip())
            start = found.end()
            start += len(_MODIFIERS.match(expression[start:])[0])  # type: ignore[index]  # matches the empty text
            position = start
        else:
            position += 1
    return [*pieces, expression[start:].strip()]


def _closing(expression: str, opening: int) -> int:
    """Return the position of the bracket that closes the one at `opening`."""
    depth, position = 0, opening
    while True:
        character = expression[position]
        if character == '"':
            position = expression.index('"', position + 1)
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return position
        position += 1


def _unwrapped(expression: str) -> str:
    """Return an expression without the parentheses around all of it."""
    if expression.startswith("(") and _closing(expression, 0) == len(expression) - 1:
        return expression[1:-1].strip()
    return expression
