"""The dashboards are valid, and Compose provisions them without a manual step.

No package index has a Grafana server, so the dashboards are checked against Grafana's published schema of dashboards
(`@grafana/schema`). The check is strict: a field that is not listed here fails.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.monitoring import DASHBOARDS, DEPLOY, dashboard, dashboard_queries

ROOT = DEPLOY.parent
# Ids of Grafana's units. An unknown one is shown as a suffix.
UNITS = {"none", "short", "s", "bytes", "Bps", "percentunit", "reqps", "dateTimeFromNow"}
OPTIONS = {
    "timeseries": {"legend", "tooltip"},
    "stat": {"colorMode", "graphMode", "justifyMode", "textMode", "orientation", "reduceOptions"},
    "heatmap": {"calculate", "cellGap", "color", "yAxis", "legend", "tooltip"},
    "table": {"showHeader", "cellHeight"},
}
FORMATS = {"timeseries": None, "stat": None, "heatmap": "heatmap", "table": "table"}
PANEL_FIELDS = {"id", "title", "description", "type", "datasource", "gridPos", "targets", "fieldConfig", "options"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Variables that Grafana defines itself.
BUILT_IN = {"__rate_interval", "__interval", "__range", "__all"}
# Colours that red-green colour blindness does not confuse; normal values have the colour of the text.
COLOURS = {"text", "orange", "red", "blue", "purple"}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dashboard(request.param)


def test_there_are_three_dashboards_with_unique_names() -> None:
    boards = [dashboard(path) for path in DASHBOARDS]

    assert {board["title"] for board in boards} == {"Line overview", "Model health", "Service"}
    assert [board["uid"] for board in boards] == [f"plumbline-{path.stem}" for path in DASHBOARDS]


def test_no_panel_and_no_expression_is_on_two_dashboards() -> None:
    titles = Counter(panel["title"] for path in DASHBOARDS for panel in dashboard(path)["panels"])
    expressions = Counter(query.text for query in dashboard_queries() if "annotation" not in query.where)

    assert [title for title, count in titles.items() if count > 1] == []
    assert [text for text, count in expressions.items() if count > 1] == []


def test_dashboard_has_the_fields_of_the_json_model(board: dict[str, Any]) -> None:
    assert set(board) == {
        "uid", "title", "description", "tags", "schemaVersion", "version", "editable", "graphTooltip", "refresh",
        "time", "timezone", "annotations", "links", "templating", "panels",
    }  # fmt: skip
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", board["uid"])
    assert board["schemaVersion"] == 39
    assert board["editable"] is False, "changes in the browser would be lost: the files are authoritative"
    (link,) = board["links"]
    assert set(link) == {
        "title", "type", "tags", "icon", "tooltip", "url", "asDropdown", "includeVars", "keepTime", "targetBlank",
    }  # fmt: skip
    assert link["tags"] == board["tags"], "the dashboards link to each other"


def test_panels_have_the_fields_of_the_json_model(board: dict[str, Any]) -> None:
    for panel in panels(board):
        title = panel["title"]
        assert set(panel) - {"transformations"} == PANEL_FIELDS, title
        assert set(panel["options"]) == OPTIONS[panel["type"]], title
        assert panel["fieldConfig"].keys() == {"defaults", "overrides"}, title
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, title
        assert len(panel["description"]) >= 20, title
        assert panel["description"].endswith("."), title
        assert panel["datasource"] == DATASOURCE, title
        assert panel["targets"], title
        for target in panel["targets"]:
            is_instant = panel["type"] in {"stat", "table"}
            assert set(target) <= {"refId", "datasource", "expr", "legendFormat", "format", "instant", "range"}, title
            assert target["datasource"] == DATASOURCE, title
            assert target.get("format") == FORMATS[panel["type"]], title
            assert (target.get("instant", False), target.get("range", True)) == (is_instant, not is_instant), title
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), title
        for transformation in panel.get("transformations", []):
            assert transformation["id"] == "organize", title
            assert set(transformation["options"]) == {"excludeByName", "indexByName", "renameByName"}, title
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["id"] == "byRegexp", title
            re.compile(override["matcher"]["options"].strip("/"))
            assert {item["id"] for item in override["properties"]} <= {"custom.lineStyle", "color"}, title


def test_several_series_of_a_chart_have_a_legend(board: dict[str, Any]) -> None:
    for panel in panels(board):
        if panel["type"] == "timeseries":
            legends = [target["legendFormat"] for target in panel["targets"]]
            assert all(legends), panel["title"]
            assert len(set(legends)) == len(legends), panel["title"]


def test_counters_are_shown_as_rates_and_rates_of_bytes_in_their_unit(board: dict[str, Any]) -> None:
    for panel in panels(board):
        texts = [target["expr"] for target in panel["targets"]]
        totals = sum(len(re.findall(r"\w+_total\b", text)) for text in texts)
        assert sum(len(re.findall(r"(?:rate|increase)\(\w+_total\b", text)) for text in texts) == totals, panel["title"]
        is_rate = ["rate(inspection_bundle_download_bytes_total" in text for text in texts]
        assert (panel["fieldConfig"]["defaults"].get("unit") == "Bps") == any(is_rate), panel["title"]
        assert any(is_rate) == all(is_rate), f"{panel['title']}: bytes and bytes per second in one chart"


def test_colour_is_only_for_what_is_abnormal(board: dict[str, Any]) -> None:
    for panel in panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        steps = defaults.get("thresholds", {"steps": []})["steps"]
        values = [step["value"] for step in steps]
        assert values[:1] in ([], [None])
        assert values[1:] == sorted(values[1:])
        assert [step["color"] for step in steps][:1] in ([], ["text"]), panel["title"]
        for mapping in defaults.get("mappings", []):
            texts = {option["text"] for option in mapping["options"].values()}
            assert len(texts) == len(mapping["options"]), "a state is shown by its text, never by colour alone"
    colours = re.findall(r"'(?:color|fixedColor|iconColor)': '(\w+)'", str(board))
    assert colours
    assert set(colours) <= COLOURS


def test_rows_and_panels_fill_the_grid_without_overlap(board: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert set(place) == {"x", "y", "w", "h"}
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert 0 <= x < 24, f"{panel['title']} exceeds the grid"
                assert (x, y) not in taken, f"{panel['title']} overlaps {taken.get((x, y))}"
                taken[x, y] = panel["title"]
    assert {y for _, y in taken} == set(range(max(y for _, y in taken) + 1)), "no empty lines"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_no_panel_is_hidden(board: dict[str, Any]) -> None:
    rows = [panel for panel in board["panels"] if panel["type"] == "row"]

    assert board["panels"][0] in rows
    for row in rows:
        assert set(row) == {"id", "title", "type", "collapsed", "gridPos", "panels"}
        assert (row["collapsed"], row["panels"]) == (False, []), row["title"]
    assert "'hide': True" not in str(board)
    assert "'hide': 2" not in str(board["templating"]), "no variable is hidden"


def test_every_variable_is_defined_and_used(board: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    content = str(board["panels"]) + str(board["annotations"])
    used = set(re.findall(r"\$\{?(\w+)", content + str(board["templating"]))) - BUILT_IN

    assert used == set(variables)
    assert variables["datasource"]["query"] == "prometheus"
    for name, variable in variables.items():
        if name == "datasource":
            continue
        assert variable["datasource"] == DATASOURCE
        assert variable["definition"] == variable["query"]["query"]
        assert variable["multi"] == variable["includeAll"]
        # Grafana joins several values with |, so they are compared as a regular expression.
        assert f'{name}=~"${name}"' in content.replace("\\\\", "").replace("\\", ""), name
        assert f'="${name}"' not in content


def test_changes_are_annotations_from_metrics(board: dict[str, Any]) -> None:
    annotations = {annotation["name"]: annotation for annotation in board["annotations"]["list"]}

    assert set(annotations) == {"Bundle activated", "Recipe changed"}
    for annotation in annotations.values():
        assert annotation["datasource"] == DATASOURCE
        assert (annotation["enable"], annotation["useValueForTime"]) == (True, True)
        assert annotation["expr"].startswith("1000 * "), "Grafana expects milliseconds"


def test_compose_provisions_dashboards_data_source_and_rules() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    grafana, prometheus = services["grafana"], services["prometheus"]
    mounts = {target: source for source, target, *_ in (item.split(":") for item in grafana["volumes"])}
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "plumbline.yml").read_text())["providers"]
    selected = dashboard(DASHBOARDS[0])["templating"]["list"][0]["current"]

    assert mounts["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert home.name in {path.name for path in DASHBOARDS}
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert selected == {"text": source["name"], "value": source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    interval = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval, "the smallest rate interval depends on it"
    assert "./deploy/prometheus:/etc/prometheus:ro" in prometheus["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in prometheus["command"]
