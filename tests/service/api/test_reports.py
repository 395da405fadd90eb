"""Shift reports over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from plumbline_client import Client
from service.reports.html import content_security_policy
from service.schemas.report import ShiftReport
from tests.access import bearer, make_key, problem_of
from tests.problems import assert_problem
from tests.running_service import BAD, RunningService
from tests.service.serving.test_report_drift import add_alarms

REPORT = "/v1/products/widget/report"


@pytest.fixture(scope="module")
def shift(service: RunningService) -> RunningService:
    """A service with three inspections, one of which fails."""
    for image in (None, None, BAD):
        options = {} if image is None else {"image": image}
        assert service.inspect(**options, params={"station": "press"}).status_code == 201
    return service


def get(service: RunningService, accept: str | None = None, **params: Any) -> httpx.Response:
    headers = {} if accept is None else {"accept": accept}
    response = service.client.get(REPORT, params=params, headers=headers)
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize(
    ("accept", "params", "expected"),
    [
        (None, {}, "application/json"),
        ("*/*", {}, "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", {}, "text/html; charset=utf-8"),
        ("text/csv", {}, "text/csv; charset=utf-8; header=present"),
        ("text/html", {"format": "json"}, "application/json"),
        ("application/json", {"format": "html"}, "text/html; charset=utf-8"),
        ("image/png", {"format": "csv"}, "text/csv; charset=utf-8; header=present"),
    ],
)
def test_format_is_negotiated_or_requested(
    shift: RunningService, accept: str | None, params: dict[str, str], expected: str
) -> None:
    response = get(shift, accept, **params)
    assert response.headers["content-type"] == expected
    assert response.headers["vary"] == "Accept, Accept-Language"
    head = shift.client.head(REPORT, params=params, headers={} if accept is None else {"accept": accept})
    assert head.status_code == 200
    assert head.headers["content-type"] == expected


def test_json_is_the_report(shift: RunningService) -> None:
    found = ShiftReport.model_validate(get(shift).json())
    assert found.total.counts == {"pass": 2, "review": 0, "fail": 1, "invalid": 0}
    assert [group.name for group in found.stations or []] == ["press"]
    assert found.defect_map is not None
    assert found.defect_map.image_inspection_id is not None
    (spot,) = found.defect_map.spots
    assert 20 <= spot.x <= 28
    assert 30 <= spot.y <= 38
    assert get(shift, station="other").json()["total"]["total"] == 0


def test_page_has_its_own_policy_and_language(shift: RunningService) -> None:
    page = get(shift, "text/html")
    assert page.headers["content-security-policy"] == f"{content_security_policy()}; frame-ancestors 'none'"
    assert '<html lang="en">' in page.text
    assert '<html lang="de">' in get(shift, "text/html", language="de").text
    german = shift.client.get(REPORT, headers={"accept": "text/html", "accept-language": "de-DE,de;q=0.9"})
    assert "Schichtbericht" in german.text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("time_zone=Europe/Nowhere", "not a time zone"),
        ("since=2026-03-02T00:00:00Z&until=2026-03-01T00:00:00Z", "since must be before until"),
        ("since=2024-03-02T00:00:00Z&until=2026-03-01T00:00:00Z", "more than 400 days"),
        ("since=2026-03-02", "since"),
        ("format=pdf", "format"),
        ("language=fr", "language"),
        ("stations=A", "did you mean `station`"),
    ],
)
def test_wrong_queries_are_refused(shift: RunningService, query: str, message: str) -> None:
    assert message in str(assert_problem(shift.client.get(f"{REPORT}?{query}"), 422, "invalid-request"))


def test_unknown_product_and_media_type_are_refused(shift: RunningService) -> None:
    assert_problem(shift.client.get("/v1/products/gadget/report"), 404, "unknown-product")
    assert_problem(shift.client.get(REPORT, headers={"accept": "image/png"}), 406, "not-acceptable")


def test_client_reads_and_saves_reports(shift: RunningService, tmp_path: Path) -> None:
    with Client(f"http://127.0.0.1:{shift.port}") as plumbline:
        found = plumbline.report("widget", station="press", time_zone="Europe/Berlin")
        plumbline.save_report("widget", tmp_path / "report.html", language="de")
        plumbline.save_report("widget", tmp_path / "report.csv", "csv")
    assert (found.total.total, found.time_zone) == (3, "Europe/Berlin")
    assert "Schichtbericht" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "report.csv").read_text(encoding="utf-8").startswith("section,item,")


def test_restricted_key_gets_a_report_on_its_stations_only(secured: RunningService, anonymous: httpx.Client) -> None:
    engine = secured.store.engine
    for station in ("r1", "r1", "r2"):
        assert secured.inspect(params={"station": station}).status_code == 201
    of_station = bearer(make_key(engine, "review", stations=["r1"]))
    found = anonymous.get(REPORT, headers=of_station).json()
    assert [(group["name"], group["total"]) for group in found["stations"]] == [("r1", 2)]
    assert found["total"]["total"] == found["reviews"]["inspections"] == 2
    other = anonymous.get(REPORT, params={"station": "r2"}, headers=of_station).json()
    assert other["total"]["total"] == other["reviews"]["inspections"] == 0
    assert "r2" not in str(anonymous.get(REPORT, params={"format": "csv"}, headers=of_station).text)
    add_alarms(secured.store, r1={}, r2={})
    add_alarms(secured.store, **{"": {}})
    for headers, expected in ((of_station, ["r1"]), (bearer(make_key(engine, "review")), ["r1", "r2", None])):
        until = {"since": "2026-03-02T05:00:00Z", "until": "2026-03-02T13:00:00Z"}
        found = anonymous.get(REPORT, params=until, headers=headers).json()
        assert [alarm["station"] for alarm in found["drift"]] == expected
    of_other = bearer(make_key(engine, "review", products=["gadget"]))
    assert problem_of(anonymous.get(REPORT, headers=of_other)) == (403, "not-permitted")
    without_scope = bearer(make_key(engine, "inspect"))
    assert problem_of(anonymous.get(REPORT, headers=without_scope)) == (403, "insufficient-scope")
