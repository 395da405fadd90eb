"""The generated reference pages contain everything that the code has."""

from __future__ import annotations

import json
import re

import pytest

from docs import generate
from service.api.http.problems import catalogue
from service.monitoring.metrics import Metrics
from service.monitoring.station_metrics import STATIONS_PER_PRODUCT
from service.settings import PREFIX, Settings
from tests.deploy.monitoring import DASHBOARDS, PROMETHEUS
from tests.docs.blocks import ROOT


def test_settings_lists_every_setting_with_its_default() -> None:
    rows = dict(re.findall(rf"(?m)^\| `{PREFIX}([A-Z0-9_]+)` \| `?([^`|]*?)`? \|", generate.settings()))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        expected[name.upper()] = str(default) if default or default == 0 else "empty"

    assert rows == expected


def test_every_setting_has_a_description() -> None:
    rows = [line for line in generate.settings().splitlines()[2:] if line]

    assert all(line.split(" | ")[-1].strip(" |") for line in rows)


def test_problems_explains_every_problem_type_under_its_slug() -> None:
    text = generate.problems()

    for slug, kind in catalogue().items():
        section = text.partition(f"## {slug}\n")[2].partition("\n## ")[0]
        assert section.startswith(f"\n**{kind.title}.** Status {kind.status}.\n"), slug
    assert set(re.findall(r"(?m)^## (.+)$", text)) == set(catalogue())


TRAINING = ("fit", "check-images", "evaluate", "export", "report", "compare", "fleet", "worker")


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        (
            "service_cli",
            [
                "plumbline serve",
                "plumbline capacity",
                "plumbline doctor",
                "plumbline bundle verify",
                "plumbline recipe diff",
            ],
        ),
        ("training_cli", [f"plumbline-train {name}" for name in TRAINING]),
    ],
)
def test_commands_are_listed_with_their_options(page: str, commands: list[str]) -> None:
    text = generate.GENERATORS[page]()

    assert {f"### {command}" for command in commands} <= set(text.splitlines())
    assert "<bound method" not in text
    for line in text.splitlines():
        if line.startswith("| `"):
            assert line.split(" | ")[-1].strip(" |"), f"no description: {line}"


def test_metrics_lists_every_metric_of_the_service() -> None:
    listed = set(re.findall(r"(?m)^\| `(\w+)` \|", generate.metrics()))
    families = [family for family in Metrics().registry.collect() if family.name.startswith(("inspection_", "http_"))]

    assert {family.name + ("_total" if family.type == "counter" else "") for family in families} <= listed


def test_metrics_lists_what_alerts_and_dashboards_use() -> None:
    listed = set(re.findall(r"(?m)^\| `(\w+)` \|", generate.metrics()))
    files = [*PROMETHEUS.glob("rules/*.yml"), *DASHBOARDS]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    recorded = set(re.findall(r"record: \w+:(\w+):", text))
    used = re.findall(r"\b(?:inspection|http)_\w+", text)

    assert len(listed) >= 20
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} - recorded - listed == set()


def test_pages_state_the_limit_of_stations() -> None:
    for name in ("reference/metrics.md", "how-to/operation.md"):
        text = " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())
        assert f"The first {STATIONS_PER_PRODUCT} stations of a product have time series of their own" in text, name


@pytest.mark.slow
def test_http_api_lists_every_operation_and_links_its_problems() -> None:
    document = json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))
    text = generate.http_api()

    for path, operations in document["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in text
    assert "[`queue-full`](../problems.md#queue-full)" in text
