"""The report in a real browser: its policy holds, and it is accessible in every size, theme and language."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from service.reports.render import render
from service.serving import reports
from service.serving.reports import IllustratedReport
from tests.browser import PHONE, TABLET, Open, assert_accessible, assert_fits, screenshot, watched
from tests.running_service import Serve
from tests.service.reports.test_html import make_report

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("size", "language", "theme"), [(TABLET, "en-GB", "light"), (PHONE, "de-DE", "dark")])
def test_report_is_accessible_and_its_policy_holds(
    open_page: Open, serve: Serve, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], language: str, theme: str
) -> None:
    async def make(*_: object) -> IllustratedReport:
        return IllustratedReport(make_report(), None)

    monkeypatch.setattr(reports.ReportService, "make", make)
    with serve() as service:
        page = open_page(service.client.base_url, "/v1/products/widget/report", size=size, language=language)
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        assert page.locator("h1").inner_text().startswith("Schichtbericht" if "de" in language else "Shift report")
        assert page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert_fits(page)
        assert_accessible(page)
        screenshot(page, f"report-{language}")


def test_report_is_printed_on_a4(open_page: Open, serve: Serve) -> None:
    page_size = b"/MediaBox [0 0 594.95996 841.91998]"
    with serve() as service:
        assert service.inspect().status_code == 201
        page: Page = open_page(service.client.base_url, "/v1/products/widget/report")
        printed = page.pdf(prefer_css_page_size=True)
    assert printed.count(b"/MediaBox") == printed.count(page_size) >= 1


def test_the_policy_in_the_file_permits_what_it_contains(open_page: Open, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_bytes(render(IllustratedReport(make_report(), None), "html", "en"))
    page = open_page(file.as_uri(), file.as_uri())
    watched(page).allow("^request to another host: file:")
    assert page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
