"""The page Try it in a browser: images are chosen, dropped and pasted, judged, and not stored."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import PHONE, Open, assert_accessible, assert_fits, screenshot, watched
from tests.bundles import part
from tests.running_service import BAD, GOOD, RunningService, encode

pytestmark = pytest.mark.slow

_DROP = """
([name, bytes]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  document.body.dispatchEvent(new DragEvent("dragover", {bubbles: true, cancelable: true, dataTransfer: files}));
  document.body.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: files}));
}
"""
_PASTE = """
(bytes) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"}));
  document.dispatchEvent(new ClipboardEvent("paste", {bubbles: true, cancelable: true, clipboardData: files}));
}
"""


def newest(page: Page, name: str, decision: str) -> None:
    """Wait until an image is judged."""
    item = page.locator(".trial").first
    expect(item.locator(".name")).to_have_text(f"{name} · widget")
    expect(item.locator(".verdict")).to_have_text(decision)


def test_images_are_chosen_dropped_and_pasted(service: RunningService, open_page: Open, tmp_path: Path) -> None:
    large = encode(part(width=640, height=480, spot=(200, 240, 60)))
    (tmp_path / "good.png").write_bytes(GOOD)
    (tmp_path / "bad.png").write_bytes(large)
    page = open_page(service.client.base_url, "/try?product=widget")
    expect(page.get_by_text("Nothing is stored")).to_be_visible()
    page.get_by_label("Images").set_input_files([tmp_path / "good.png", tmp_path / "bad.png"])
    expect(page.locator("#progress")).to_have_text("Judged: 2")
    newest(page, "bad.png", "Fail")
    expect(page.locator(".trial").nth(1).locator(".verdict")).to_have_text("Pass")
    viewer = page.locator(".trial").first.locator("plumbline-viewer")
    expect(viewer).to_have_attribute("data-state", "ready")
    assert viewer.locator("svg path").count() >= 2, "the region is outlined"
    expect(page.locator(".trial").first.locator(".size")).to_have_text("640 × 480")
    assert_accessible(page)
    assert_fits(page)
    screenshot(page, "try")
    page.evaluate(_DROP, ["dropped.png", list(BAD)])
    newest(page, "dropped.png", "Fail")
    page.evaluate(_PASTE, list(GOOD))
    newest(page, "pasted.png", "Pass")
    page.get_by_role("button", name="Clear the results").click()
    assert page.locator(".trial").count() == 0
    assert service.client.get("/v1/inspections").json()["items"] == []


def test_error_of_the_decoder_is_shown_as_the_api_words_it(service: RunningService, open_page: Open) -> None:
    page = open_page(service.client.base_url, "/try")
    watched(page).allow("422|415")
    page.evaluate(_DROP, ["broken.png", list(GOOD[:200])])
    headers = {"content-type": "image/png"}
    url = "/v1/products/widget/inspections:try"
    expected = service.client.post(url, content=GOOD[:200], headers=headers).json()["detail"]
    expect(page.get_by_role("alert")).to_have_text(expected)
    page.evaluate(_DROP, ["good.png", list(GOOD)])
    newest(page, "good.png", "Pass")
    assert_accessible(page)


@pytest.mark.parametrize("theme", ["dark", "contrast"])
def test_page_on_a_phone_in_german(service: RunningService, open_page: Open, tmp_path: Path, theme: str) -> None:
    (tmp_path / "bad.png").write_bytes(BAD)
    page = open_page(service.client.base_url, "/try", size=PHONE, language="de-DE", theme=theme)
    page.get_by_label("Bilder").set_input_files(tmp_path / "bad.png")
    newest(page, "bad.png", "Schlecht")
    assert page.locator("input[capture=environment]").count() == 1
    assert_fits(page)
    assert_accessible(page)
    screenshot(page, f"try-phone-{theme}")
