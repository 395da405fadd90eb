"""Alert rules and dashboard use only existing metrics, and the rules fire as expected."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.monitoring.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "plumbline.json"

# Added by the Prometheus server.
SERVER_METRICS = {"up"}
NAME = re.compile(r"\b(?:inspection|http|process|product|route)[a-zA-Z0-9_]*(?::[a-zA-Z0-9_:]+)?|\bup\b")
# Grouping clauses and label matchers name labels, not metrics.
LABELS = re.compile(
    r"""\{(?:[^}"]|"[^"]*")*\}|\b(?:by|without|on|ignoring)\s*\([^)]*\)|label_values\((?P<metric>\w+),\s*\w+\)"""
)


def exposed_names() -> set[str]:
    names = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard_expressions() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for variable in dashboard["templating"]["list"]:
        yield variable["query"]["query"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def metric_names(expression: str) -> set[str]:
    return set(NAME.findall(LABELS.sub(lambda match: match["metric"] or "", expression)))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('sum by (product) (rate(inspection_requests_total{product="x"}[5m]))', {"inspection_requests_total"}),
        ('rate(http_requests_total{route="/v1/{product}/inspections"}[5m])', {"http_requests_total"}),
        ("label_values(inspection_model_info, product)", {"inspection_model_info"}),
        ('up{job="plumbline"} == 0', {"up"}),
        ("product:inspection_fail_ratio:rate1d + 0.02", {"product:inspection_fail_ratio:rate1d"}),
    ],
)
def test_metric_names_are_found_in_an_expression(expression: str, expected: set[str]) -> None:
    assert metric_names(expression) == expected


def test_rules_and_dashboard_use_only_exposed_metrics() -> None:
    known = exposed_names() | SERVER_METRICS | {rule["record"] for rule in rules() if "record" in rule}
    expressions = [rule["expr"] for rule in rules()] + list(dashboard_expressions())
    used = set().union(*(metric_names(expression) for expression in expressions))

    assert len(used) > 12, "the search for metric names found too few: it is broken"
    assert used - known == set()


def test_every_alert_describes_the_action() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]

    assert len(alerts) >= 5
    for alert in alerts:
        assert alert["labels"]["severity"] in {"warning", "critical"}, alert["alert"]
        assert alert["annotations"]["summary"], alert["alert"]
        assert alert["annotations"]["action"], alert["alert"]


def test_every_alert_is_tested_in_both_directions() -> None:
    document = yaml.safe_load((RULES.parent / "rules_test.yml").read_text(encoding="utf-8"))
    outcomes: dict[str, set[bool]] = {}
    for case in document["tests"]:
        for check in case.get("alert_rule_test", []):
            outcomes.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
        for check in case.get("promql_expr_test", []):
            for name in re.findall(r'ALERTS\{alertname="(\w+)"', check["expr"]):
                outcomes.setdefault(name, set()).add(bool(check["exp_samples"]))

    assert {rule["alert"] for rule in rules() if "alert" in rule} == set(outcomes)
    assert [name for name, seen in outcomes.items() if seen != {True, False}] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]],
    ids=" ".join,
)
def test_rules_are_valid_and_fire_as_expected(command: list[str], tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: run `make system-deps` (Debian package prometheus)")
    shutil.copytree(RULES.parent, tmp_path, dirs_exist_ok=True)
    key, config = tmp_path / "prometheus.key", tmp_path / "prometheus.yml"
    key.write_text("created by compose")  # promtool requires that the file exists
    config.write_text(config.read_text(encoding="utf-8").replace("/run/plumbline/prometheus.key", str(key)))
    done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: run `make system-deps` (Debian package prometheus)")
    expressions = [expression for expression in dashboard_expressions() if "label_values" not in expression]
    # promtool does not read dashboards, so the queries are checked as recording rules.
    queries = [
        {"record": f"query:{index}", "expr": text.replace("$__rate_interval", "1m").replace("$product", ".*")}
        for index, text in enumerate(expressions)
    ]
    rules_file = tmp_path / "queries.yml"
    rules_file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]}), encoding="utf-8")
    done = subprocess.run(
        [promtool, "check", "rules", rules_file], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert not any("$" in query["expr"] for query in queries)


def test_dashboard_can_be_provisioned_and_its_panels_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    taken: dict[tuple[int, int], str] = {}

    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24, f"{panel['title']} exceeds the grid"
                assert (x, y) not in taken, f"{panel['title']} overlaps {taken.get((x, y))}"
                taken[x, y] = panel["title"]
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == source["datasources"][0]["uid"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
