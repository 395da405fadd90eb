"""Rules and dashboards use only existing metrics, and the alerts fire as expected."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.api.http.problems import catalogue
from service.monitoring.metrics import Metrics
from tests.deploy.monitoring import (
    PROMETHEUS,
    SERVER_METRICS,
    alerts,
    dashboard_queries,
    dashboard_variables,
    metric_names,
    operands,
    rules,
)

ALERTS_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "alerts.md"
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))


def promtool(*arguments: str | Path, folder: Path) -> None:
    """Run promtool and check that it succeeds."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: run `make system-deps` (Debian package prometheus)")
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def exposed_names() -> set[str]:
    names = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def expressions() -> list[str]:
    """Return all expressions of rules and dashboards."""
    queries = [query.text for query in dashboard_queries()]
    return [rule["expr"] for rule in rules()] + queries + [variable.series for variable in dashboard_variables()]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('sum by (product) (rate(inspection_requests_total{product="x"}[5m]))', {"inspection_requests_total"}),
        ('rate(http_requests_total{route="/v1/{product}/inspections"}[5m])', {"http_requests_total"}),
        ('up{job="plumbline"} == 0', {"up"}),
        ("product:inspection_fail_ratio:rate1d + 0.02", {"product:inspection_fail_ratio:rate1d"}),
        ("http_body_bytes / on (instance) group_left (product) up", {"http_body_bytes", "up"}),
    ],
)
def test_metric_names_are_found_in_an_expression(expression: str, expected: set[str]) -> None:
    assert metric_names(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("up == 0", ["up", "0"]),
        ("rate(a[5m]) / (b > 0)", ["rate(a[5m]) / (b > 0)"]),
        ('sum(a{y!="<"}) > 0.8 and on (x) (c < 2 or d >= bool 3)', ['sum(a{y!="<"})', "0.8", "c", "2", "d", "3"]),
        ("a\n  > on (x) group_left () b", ["a", "b"]),
        ("band unless order", ["band", "order"]),
    ],
)
def test_alert_expression_is_split_into_its_operands(expression: str, expected: list[str]) -> None:
    assert operands(expression) == expected


def test_rules_and_dashboards_use_only_exposed_metrics() -> None:
    known = exposed_names() | SERVER_METRICS | {rule["record"] for rule in rules() if "record" in rule}
    used = set().union(*(metric_names(expression) for expression in expressions()))

    assert len(used) > 60, "the search for metric names found too few: it is broken"
    assert used - known == set()


def test_every_metric_of_the_service_is_on_a_dashboard() -> None:
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    used = set().union(*(metric_names(query.text) for query in dashboard_queries()))
    for name in sorted(used & set(recorded)):
        used |= metric_names(recorded[name])
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed_names()}

    # Its values are those of inspection_requests_total and http_request_duration_seconds by another label.
    assert {name for name in names - shown if name.startswith(("inspection_", "http_"))} == {"http_requests_total"}


def test_every_recorded_series_is_used_and_tested() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = set().union(*(metric_names(expression) for expression in expressions()))
    tests = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULE_TESTS]
    checks = [check for document in tests for case in document["tests"] for check in case.get("promql_expr_test", [])]
    # A recorded series is tested itself, or by the alerts that use it and are tested in both directions.
    tested = set().union(*(metric_names(check["expr"]) for check in checks))
    for rule in [*alerts(), *reversed(rules())]:  # the series that a rule uses are recorded before it
        if rule.get("record") in {None, *tested}:
            tested |= metric_names(rule["expr"])

    assert recorded - used == set()
    assert recorded - tested == set()


def test_every_alert_describes_what_happened_and_what_to_do() -> None:
    assert len(alerts()) >= 30
    for alert in alerts():
        name, annotations = alert["alert"], alert["annotations"]
        assert alert["labels"]["severity"] in {"warning", "critical"}, name
        assert set(annotations) == {"summary", "description", "action", "runbook_url"}, name
        assert all(text.strip() for text in annotations.values()), name
        assert annotations["description"].endswith("."), name
        assert annotations["action"].endswith("."), name
        assert annotations["runbook_url"] == f"docs/how-to/alerts.md#{name.lower()}"


def test_every_alert_has_a_section_in_the_documentation_and_no_other_has() -> None:
    sections = re.split(r"(?m)^### ", ALERTS_PAGE.read_text(encoding="utf-8"))[1:]
    texts = {section.split("\n", 1)[0]: section.split("\n", 1)[1] for section in sections}

    assert set(texts) == {alert["alert"] for alert in alerts()}
    for name, text in texts.items():
        assert "**What to do.**" in text, name


def test_every_problem_of_the_alert_about_refused_images_exists() -> None:
    (alert,) = [alert for alert in alerts() if alert["alert"] == "PlumblineImagesRefused"]
    (types,) = re.findall(r'type=~"([^"]+)"', alert["expr"])

    assert set(types.split("|")) <= set(catalogue())


def test_every_alert_is_tested_in_both_directions() -> None:
    outcomes: dict[str, set[bool]] = {}
    for path in RULE_TESTS:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in case.get("alert_rule_test", []):
                outcomes.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
            for check in case.get("promql_expr_test", []):
                for names in re.findall(r'ALERTS\{alertname=~?"([\w|]+)"', check["expr"]):
                    for name in names.split("|"):
                        outcomes.setdefault(name, set()).add(bool(check["exp_samples"]))

    assert {alert["alert"] for alert in alerts()} == set(outcomes)
    assert [name for name, seen in outcomes.items() if seen != {True, False}] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["check", "config", "prometheus.yml"], *(["test", "rules", f"tests/{path.name}"] for path in RULE_TESTS)],
    ids=" ".join,
)
def test_rules_are_valid_and_fire_as_expected(command: list[str], tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    key, config = tmp_path / "prometheus.key", tmp_path / "prometheus.yml"
    key.write_text("created by compose")  # promtool requires that the file exists
    config.write_text(config.read_text(encoding="utf-8").replace("/run/plumbline/prometheus.key", str(key)))

    promtool(*command, folder=tmp_path)


def test_prometheus_reads_every_file_of_rules() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))

    read = {path for pattern in config["rule_files"] for path in PROMETHEUS.glob(pattern)}
    assert read == set((PROMETHEUS / "rules").iterdir())


def test_queries_of_the_dashboards_are_valid(tmp_path: Path) -> None:
    # promtool does not read dashboards, so the queries are checked as recording rules.
    queries = [
        {"record": f"query:{index}", "expr": query.inserted(__rate_interval="1m")}
        for index, query in enumerate(dashboard_queries())
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": queries}]}))

    assert [query["expr"] for query in queries if "$" in query["expr"]] == []
    promtool("check", "rules", "queries.yml", folder=tmp_path)
