"""Generate the reference pages of the documentation site from the code.

A hook of MkDocs (`mkdocs.yml`): the line `<!-- generated: NAME -->` in a page is replaced by the output of the function
of this name. Nothing generated is committed, so a reference page cannot differ from the code it was built from, and
a change of a setting or an error class needs no second commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from prometheus_client import CollectorRegistry, Metric
from pydantic.fields import FieldInfo

import service.cli.main
import training.cli.main
from service.api.http.problems import catalogue, describe
from service.monitoring.metrics import Metrics
from service.monitoring.opcua_metrics import OpcuaMetrics
from service.monitoring.otel_metrics import OtelMetrics
from service.monitoring.scaled_histogram import ScaledHistogram
from service.settings import PREFIX, Settings

OPENAPI = Path(__file__).parents[1] / "openapi.json"
MARKER = re.compile(r"^<!-- generated: ([a-z_]+) -->$", re.MULTILINE)
# `{.no-run reason="..."}` is for the tests (tests/docs/blocks.py); Markdown has no use for it.
BLOCK_ATTRIBUTES = re.compile(r"^(```[a-z]+) \{\.[^}\n]*\}$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the OpenAPI document to the site, for clients that are generated from it."""
    files.append(File.generated(config, "openapi.json", content=OPENAPI.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page and remove the attributes of its code blocks."""
    return MARKER.sub(lambda found: GENERATORS[found[1]](), BLOCK_ATTRIBUTES.sub(r"\1", markdown))


def settings() -> str:
    """Return one table row per setting of the service."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = f"`{default}`" if default or default == 0 else "empty"
        description = _one_line(field.description or "")
        rows.append((f"`{PREFIX}{name.upper()}`", shown.replace("`frozenset()`", "empty"), _values(field), description))
    return _table(("variable", "default", "values", "description"), rows)


def service_cli() -> str:
    """Return one section per command of `plumbline`."""
    return _commands(typer.main.get_command(service.cli.main.app), "plumbline")


def training_cli() -> str:
    """Return one section per command of `plumbline-train`."""
    return _commands(typer.main.get_command(training.cli.main.app), "plumbline-train")


def problems() -> str:
    """Return one section per error class that a client can receive. Its anchor is the slug."""
    sections = []
    for slug, kind in sorted(catalogue().items(), key=lambda item: (item[1].status, item[0])):
        sections.append(f"## {slug}\n\n**{kind.title}.** Status {kind.status}.\n\n{_paragraphs(describe(kind))}\n")
    return "\n".join(sections)


def metrics() -> str:
    """Return one table row per metric of the service."""
    rows = []
    for family, labels in sorted(_families(), key=lambda item: item[0].name):
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append((f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation))
    return _table(("metric", "type", "labels", "description"), rows)


def http_api() -> str:
    """Return one section per operation of the OpenAPI document."""
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation, document))
    return "\n".join(f"## {tag.capitalize()}\n\n" + "\n".join(sections) for tag, sections in by_tag.items())


GENERATORS: Mapping[str, Callable[[], str]] = {
    "settings": settings,
    "service_cli": service_cli,
    "training_cli": training_cli,
    "problems": problems,
    "metrics": metrics,
    "http_api": http_api,
}


def _families() -> Iterable[tuple[Metric, Sequence[str]]]:
    metrics = Metrics()
    # These exist only where they are configured.
    optional = [OpcuaMetrics(CollectorRegistry()), OtelMetrics(CollectorRegistry())]
    named = [metrics.bundles, metrics.bundle_store, metrics.drift, metrics.http, metrics.memory, metrics.outbox]
    named += [metrics.stations, metrics.storage, metrics.training]
    for collector in (collector for group in (metrics, *named, *optional) for collector in vars(group).values()):
        if not hasattr(collector, "collect") or collector is metrics.registry:
            continue
        # The client library has no public attribute for the names of labels, unlike `ScaledHistogram`.
        labels = collector.labels if isinstance(collector, ScaledHistogram) else collector._labelnames
        for family in collector.collect():
            yield family, labels


def _values(field: FieldInfo) -> str:
    """Return the accepted values of a setting: literals or numeric bounds."""
    literals = [value for value in get_args(field.annotation) if isinstance(value, str)]
    if literals:
        return ", ".join(f"`{value}`" for value in literals)
    symbols = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(
        f"{symbol} {getattr(item, name)}"
        for item in field.metadata
        for name, symbol in symbols.items()
        if hasattr(item, name)
    )


def _commands(command: Any, name: str, level: int = 3) -> str:
    subcommands = getattr(command, "commands", None)
    if subcommands is not None:
        return "\n".join(_commands(sub, f"{name} {sub_name}", level) for sub_name, sub in subcommands.items())
    parts = [f"{'#' * level} {name}\n", _paragraphs(command.help or ""), ""]
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = [name, *(_argument(parameter) for parameter in arguments), *(["[OPTIONS]"] if options else [])]
    parts += ["```text", " ".join(usage), "```", ""]
    if arguments:
        parts.append(
            _table(("argument", "description"), [(f"`{_argument(item)}`", _one_line(item.help)) for item in arguments])
        )
    if options:
        rows = [(", ".join(f"`{name}`" for name in item.opts), _default(item), _option_help(item)) for item in options]
        parts.append(_table(("option", "default", "description"), rows))
    return "\n".join(parts)


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return f"`{parameter.show_default}`" if " " not in parameter.show_default else parameter.show_default
    default = getattr(parameter.default, "value", parameter.default)
    return "" if default is None or default is False else f"`{default}`"


def _option_help(parameter: Any) -> str:
    variable = f" Environment: `{parameter.envvar}`." if isinstance(parameter.envvar, str) else ""
    return _one_line(parameter.help or "") + variable


def _operation(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    parts = [f"### {operation['summary']}\n", f"`{method.upper()} {path}`\n"]
    parts.append(_paragraphs(operation.get("description", "")) + "\n")
    rows = [
        (f"`{item['name']}`", item["in"], "yes" if item.get("required") else "", _one_line(item.get("description", "")))
        for item in (_resolved(item, document) for item in operation.get("parameters", []))
    ]
    if rows:
        parts.append(_table(("parameter", "in", "required", "description"), rows))
    if body := operation.get("requestBody"):
        parts.append("Request body: " + ", ".join(f"`{kind}`" for kind in body["content"]) + ".\n")
    responses = [
        (
            status,
            ", ".join(f"`{kind}`" for kind in response.get("content", {})),
            _problem_links(response["description"]),
        )
        for status, response in operation["responses"].items()
    ]
    parts.append(_table(("status", "content", "meaning"), responses))
    return "\n".join(parts)


def _resolved(item: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in item:
        return item
    found: Any = document
    for key in item["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    resolved: Mapping[str, Any] = found
    return resolved


def _problem_links(description: str) -> str:
    """Link every slug in a description to its section."""
    known = catalogue()
    return re.sub(
        r"`([a-z-]+)`",
        lambda found: f"[`{found[1]}`](../problems.md#{found[1]})" if found[1] in known else found[0],
        _one_line(description),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """Return a text in one line, with `<` escaped outside of code: Markdown would take `<defect>` for HTML."""
    pieces = " ".join(text.split()).split("`")
    return "`".join(piece.replace("<", "&lt;") if index % 2 == 0 else piece for index, piece in enumerate(pieces))


def _paragraphs(text: str) -> str:
    """Return a docstring as paragraphs; its line breaks inside a paragraph mean nothing."""
    return "\n\n".join(_one_line(paragraph) for paragraph in text.split("\n\n"))
