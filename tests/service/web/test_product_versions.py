"""The page of the bundles of a product in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from service.bundle.bundle import Bundle
from tests.browser import Open, assert_accessible, screenshot
from tests.bundles import part
from tests.running_service import Serve, encode
from tests.service.api.test_bundles import activate, make_bundle
from tests.service.api.test_shadow import runs, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def two(tmp_path: Path) -> tuple[Bundle, Bundle]:
    """Write two bundles; the newer one is more lenient."""
    return make_bundle(tmp_path / "two"), make_bundle(tmp_path / "two", 9)


def change(page: Page, version: str, title: str, reason: str = "trial") -> None:
    row = page.locator(f'tr[data-version="{version}"]')
    row.get_by_text(f"{title} …").click()
    opened = row.locator("details[open]")
    opened.get_by_label("Reason").fill(reason)
    opened.get_by_role("button", name=title).click()


def test_bundle_is_activated_rolled_back_and_undone(
    serve: Serve, open_page: Open, tmp_path: Path, two: tuple[Bundle, Bundle]
) -> None:
    strict, lax = two
    with serve(models=tmp_path / "two") as service:
        activate(service, strict)
        page = open_page(service.client.base_url, "/products/widget/versions")
        state = page.locator(f'tr[data-version="{lax.version}"] .bundle-state')
        expect(state).to_have_text("available")
        change(page, lax.version, "Activate", "fewer slips")
        message = page.locator("#messages")
        expect(message).to_contain_text(f"Bundle {lax.version} is active.")
        expect(state).to_have_text("active")
        expect(page.get_by_role("row").filter(has_text="fewer slips")).to_contain_text(lax.version)
        assert service.registry.active["widget"].bundle.version == lax.version
        message.get_by_role("button", name="Undo").click()
        expect(state).to_have_text("available")
        assert service.registry.active["widget"].bundle.version == strict.version
        change(page, lax.version, "Activate")
        expect(state).to_have_text("active")
        change(page, lax.version, "Roll back")
        expect(state).to_have_text("available")
        assert service.registry.active["widget"].bundle.version == strict.version
        assert_accessible(page)


def test_shadow_is_started_compared_with_both_heatmaps_and_stopped(
    serve: Serve, open_page: Open, tmp_path: Path, two: tuple[Bundle, Bundle]
) -> None:
    strict, lax = two
    with serve(models=tmp_path / "two") as service:
        activate(service, strict)
        page = open_page(service.client.base_url, "/products/widget/versions")
        change(page, lax.version, "Run as shadow")
        state = page.locator(f'tr[data-version="{lax.version}"] .bundle-state')
        expect(state).to_have_text("shadow")
        for _ in range(2):
            service.inspect(encode(part(brightness=150)))
        wait_for(lambda: runs(service, "judged") == 2)
        page.reload()
        expect(page.locator(".agreement")).to_be_visible()
        pairs = page.locator(".disagreement")
        expect(pairs).to_have_count(2)
        first = pairs.first
        first.scroll_into_view_if_needed()
        viewers = first.locator("plumbline-viewer")
        expect(viewers).to_have_count(2)
        for number in range(2):
            expect(viewers.nth(number)).to_have_attribute("data-state", "ready")
        zooms = [one.evaluate("one => one.view.zoom") for one in viewers.all()]
        viewers.first.locator(".view").focus()
        page.keyboard.press("+")
        expect(viewers.nth(1)).to_have_js_property("view", viewers.first.evaluate("one => one.view"))
        assert viewers.nth(1).evaluate("one => one.view.zoom") > zooms[1], "both zoom in step"
        assert_accessible(page)
        screenshot(page, "product-versions-shadow")
        change(page, lax.version, "Stop the shadow")
        expect(state).to_have_text("available")
        expect(page.get_by_text("The maps of a shadow bundle are not stored.")).to_be_visible()
        expect(pairs.first.locator("plumbline-viewer[overlay]")).to_have_count(1)
        assert "widget" not in service.registry.shadows
