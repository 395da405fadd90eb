"""Put elements <plumbline-viewer> on a page of a running service."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from service.web.page import Pages
from tests.running_service import RunningService

WIDTH, HEIGHT = 640, 480
TEMPLATE = """
<h1>Viewer</h1>
{% from "_viewer.html" import viewer, viewer_labels with context %}
<div class="grid">
{{ viewer(id, width, height, regions=regions, group="pair", page_keys=true, id="first",
          label="Part 1", controls="zoom blend") }}
{{ viewer(id, width, height, group="pair", blend=0, id="second") }}
</div>
{{ viewer_labels() }}
"""


def show(service: RunningService, page: Page, template: str, **context: Any) -> None:
    """Put viewers on a page of the service, with what the macro makes."""
    pages: Pages = service.app.state.pages
    language = page.locator("html").get_attribute("lang")
    environment = pages._environments[str(language)]
    html = environment.from_string(template).render(width=WIDTH, height=HEIGHT, asset=pages.assets.url, **context)
    page.evaluate("html => { document.querySelector('main').innerHTML = html; }", html)
    page.evaluate("url => import(url)", pages.assets.url("js/viewer.js"))


def two(service: RunningService, page: Page, inspection: dict[str, Any]) -> None:
    show(service, page, TEMPLATE, id=inspection["id"], regions=inspection["regions"])
    for name in ("first", "second"):
        expect(page.locator(f"#{name}")).to_have_attribute("data-state", "ready")
