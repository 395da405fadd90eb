"""The page of the shift report in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import insert

from service.schemas.report import ShiftReport
from service.serving.errors import RecordsBusy
from service.serving.reports import ReportService
from service.store.models import DriftAlarmRow
from service.store.session import transaction
from tests.access import PASSWORD, make_account
from tests.browser import PHONE, Open, assert_accessible, assert_fits, log_in, screenshot, watched
from tests.bundles import write_tiny_bundle
from tests.running_service import BAD, GOOD, RunningService, Serve, run_service
from tests.service.api.test_shadow import wait_for

pytestmark = pytest.mark.slow
PAGE = "/products/widget/report"


def add_alarms(service: RunningService) -> None:
    """Store an open alarm and an acknowledged one."""
    now = datetime.now(UTC)
    values = {
        "product": "widget", "station": "press-1", "kind": "brightness", "direction": "lower", "reference": "card",
        "recipe_revision": 1, "raised_at": now, "onset_at": None, "evidence": 5.0, "suspends": True,
    }  # fmt: skip
    acknowledged = {"station": "press-2", "kind": "sharpness", "acknowledged_at": now + timedelta(seconds=1),
                    "acknowledged_by": "Ada", "reason": "lens cleaned"}  # fmt: skip
    with transaction(service.store.engine, "insert") as connection:
        for changes in ({}, acknowledged):
            connection.execute(insert(DriftAlarmRow), values | changes)


@pytest.fixture(scope="module")
def service(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with two passes and one fail at press-1, one pass at press-2, and drift alarms."""
    with run_service(tiny_models, tmp_path_factory.mktemp("data"), time_zone="Europe/Berlin") as running:
        for image, station in ((GOOD, "press-1"), (GOOD, "press-1"), (BAD, "press-1"), (GOOD, "press-2")):
            assert running.inspect(image, params={"station": station}).status_code == 201
        add_alarms(running)
        yield running


def counts(page: Page) -> list[str]:
    """Wait for the figures, and return the numbers: inspected, pass, review, fail and invalid."""
    expect(page.locator(".report-counts")).to_be_visible(
        timeout=30_000
    )  # a part whose figures are postponed asks again
    return page.locator(".report-counts dd").all_inner_texts()[:5]


def test_shift_leader_sees_the_figures_of_the_shift(service: RunningService, open_page: Open) -> None:
    page = open_page(service.client.base_url, PAGE)
    assert page.title() == "widget: Shift report · Plumbline"
    assert counts(page) == ["4", "3", "0", "1", "0"]
    expect(page.get_by_role("link", name="This shift")).to_have_attribute("aria-current", "true")
    tabs = page.get_by_role("navigation", name="Pages of the product")
    expect(tabs.get_by_role("link", name="Report")).to_have_attribute("aria-current", "page")
    expect(page.locator(".report-counts")).to_contain_text("75.0%")
    alarms = page.locator(".report-drift li")
    expect(alarms.nth(0)).to_contain_text("Brightness · press-1")
    expect(alarms.nth(0)).to_contain_text("open; suspends the guarantee")
    expect(alarms.nth(1)).to_contain_text("acknowledged by Ada: lens cleaned")
    assert_accessible(page)
    assert_fits(page)
    screenshot(page, "product-report")
    page.get_by_role("link", name="press-2").click()
    assert counts(page) == ["1", "1", "0", "0", "0"]
    expect(page.locator(".report-drift li")).to_have_count(1)
    page.get_by_role("link", name="All stations").click()
    assert counts(page) == ["4", "3", "0", "1", "0"]
    page.go_back()
    page.get_by_role("link", name="Last 7 days").click()
    expect(page.get_by_label("Station", exact=True)).to_have_value("press-2")
    assert counts(page) == ["1", "1", "0", "0", "0"]
    page.get_by_role("link", name="Previous shift").click()
    assert counts(page) == ["0", "0", "0", "0", "0"]


def test_files_have_the_figures_that_are_shown(service: RunningService, open_page: Open) -> None:
    page = open_page(service.client.base_url, f"{PAGE}?period=today&station=press-1")
    assert counts(page) == ["3", "2", "0", "1", "0"]
    found = service.client.get(str(page.get_by_role("link", name="JSON").get_attribute("href")))
    report = ShiftReport.model_validate(found.raise_for_status().json())
    assert (report.total.total, report.station, report.time_zone) == (3, "press-1", "Europe/Berlin")
    table = service.client.get(str(page.get_by_role("link", name="CSV").get_attribute("href")))
    assert table.text.startswith("section,item,")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open report").click()
    expect(opened.value.get_by_role("heading", name="Shift report: widget")).to_be_visible()


def test_print_opens_the_report_and_prints_it(service: RunningService, open_page: Open) -> None:
    page = open_page(service.client.base_url, PAGE)
    counts(page)
    page.context.add_init_script("window.print = () => document.documentElement.setAttribute('data-printed', '')")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Print").click()
    expect(opened.value.locator("html[data-printed]")).to_contain_text("Shift report: widget")
    assert urlsplit(page.url).path == PAGE


def test_period_is_chosen_by_local_times(service: RunningService, open_page: Open) -> None:
    page = open_page(service.client.base_url, PAGE)
    counts(page)
    page.get_by_text("Other period or station").click()
    page.get_by_label("From").fill("2026-01-10T06:00")
    page.get_by_label("Before").fill("2026-01-10T14:00")
    page.get_by_role("button", name="Show report").click()
    assert counts(page) == ["0", "0", "0", "0", "0"]
    link = str(page.get_by_role("link", name="JSON").get_attribute("href"))
    query = parse_qs(urlsplit(link).query)
    assert (query["since"], query["until"]) == (["2026-01-10T06:00:00+01:00"], ["2026-01-10T14:00:00+01:00"])
    assert page.locator(".periods [aria-current]").count() == 0
    watched(page).allow("422")
    page.get_by_label("Before").fill("2026-01-09T14:00")
    page.get_by_role("button", name="Show report").click()
    expect(page.get_by_role("alert").filter(has_text="since must be before until")).to_be_visible()
    assert page.locator("#figures").count() == 0
    page.goto(f"{PAGE}?since=2020-01-01T00:00")
    expect(page.get_by_role("alert").filter(has_text="more than 400 days")).to_be_visible()


def test_page_waits_while_another_report_is_made(
    service: RunningService, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(service.client.base_url, "/try")
    make, calls = ReportService.make, []

    async def busy_once(self: ReportService, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise RecordsBusy(is_own=True)
        return await make(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ReportService, "make", busy_once)
    page.goto(PAGE)
    assert counts(page) == ["4", "3", "0", "1", "0"]
    assert len(calls) == 2


def test_operator_reaches_the_report_from_the_live_page(serve: Serve, open_page: Open) -> None:
    with serve(login_attempts=1000) as service:
        make_account(service.store.engine, "Olga")
        wait_for(lambda: service.client.get("/v1/products").status_code == 401)  # until then, no log-in is needed
        page = open_page(service.client.base_url, "/?station=press-1", size=PHONE)
        log_in(page, "Olga", PASSWORD)
        page.get_by_role("link", name="Shift report").click()
        assert counts(page) == ["0", "0", "0", "0", "0"]
        expect(page.get_by_label("Station", exact=True)).to_have_value("press-1")
        assert page.get_by_role("navigation", name="Pages of the product").count() == 0, "its pages are for engineers"
        assert_accessible(page)


def test_product_is_chosen_where_there_are_several(serve: Serve, open_page: Open, tmp_path: Path) -> None:
    for name in ("widget", "gadget"):
        write_tiny_bundle(tmp_path / "models", name)
    with serve(models=tmp_path / "models") as service:
        assert service.inspect(params={"station": "press-1"}).status_code == 201
        page = open_page(service.client.base_url, "/", size=PHONE)
        page.get_by_text("Shift report").click()
        assert_fits(page)
        page.get_by_role("link", name="gadget").click()
        assert counts(page) == ["0", "0", "0", "0", "0"]
        page.get_by_role("link", name="Today").click()
        page.get_by_text("Other product").click()
        assert_fits(page)
        page.get_by_role("link", name="widget").click()
        assert counts(page) == ["1", "1", "0", "0", "0"]
        expect(page.get_by_role("link", name="Today")).to_have_attribute("aria-current", "true")


@pytest.mark.parametrize("theme", ["light", "dark", "contrast"])
def test_page_fits_a_phone_and_speaks_german(service: RunningService, open_page: Open, theme: str) -> None:
    page = open_page(service.client.base_url, f"{PAGE}?station=press-1", size=PHONE, language="de-DE", theme=theme)
    assert counts(page) == ["3", "2", "0", "1", "0"]
    expect(page.get_by_role("heading", name="Schichtbericht")).to_be_visible()
    expect(page.locator(".report-drift")).to_contain_text("offen; setzt die Garantie aus")
    expect(page.get_by_role("link", name="Bericht öffnen")).to_have_attribute("href", re.compile("language=de"))
    assert_accessible(page)
    assert_fits(page)
    screenshot(page, f"product-report-phone-{theme}")
