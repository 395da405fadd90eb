"""The panel "Why?" on the review page and on the page of an inspection: by keyboard, by click, in both languages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import PHONE, Open, assert_accessible, screenshot, watched
from tests.bundles import part, write_tiny_bundle
from tests.explained_bundles import gray_origins, write_explained_bundle
from tests.running_service import RunningService, Serve, encode
from tests.service.web.test_review import all_sent, card, press

pytestmark = pytest.mark.slow

REVIEWED = {"author": "a", "reason": "b", "fail_threshold": 5.0, "review_threshold": 0.05}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_explained_bundle(tmp_path / "models", origins=gray_origins())
    return tmp_path / "models"


def fill(service: RunningService, count: int = 1) -> list[dict[str, Any]]:
    """Make inspections with the decision review."""
    assert service.client.put("/v1/products/widget/recipe", json=REVIEWED).status_code == 200
    images = [encode(part(width=320, height=240, spot=(40 + 30 * number, 100, 40))) for number in range(count)]
    found = [service.inspect(image).json() for image in images]
    assert {one["decision"] for one in found} == {"review"}
    return found


def panel(page: Page) -> Locator:
    return page.locator(".why")


def at(page: Page) -> tuple[int, int]:
    """Return the place of the spot that is explained."""
    text = panel(page).locator("[data-why=value]")
    expect(text).to_have_text(re.compile(r"x \d+, y \d+"))
    found = re.search(r"x (\d+), y (\d+)", text.inner_text())
    assert found is not None
    return int(found[1]), int(found[2])


def images_load(page: Page) -> None:
    """Check that the browser shows the patches: the policy of the page must permit them."""
    sizes = page.evaluate(
        """() => Promise.all([...document.querySelectorAll(".why svg image")].map(async (element) => {
          const image = new Image();
          image.src = element.href.baseVal;
          await image.decode();
          return image.naturalWidth;
        }))"""
    )
    assert len(sizes) == 2
    assert min(sizes) > 0


def test_review_shows_the_nearest_normal_spot_by_keyboard(serve: Serve, models: Path, open_page: Open) -> None:
    with serve(models=models) as service:
        fill(service, 2)
        page = open_page(service.client.base_url, "/review?product=widget")
        card(page)
        toggle = panel(page).get_by_role("button", name="Why?")
        expect(toggle).to_have_attribute("aria-expanded", "false")
        expect(panel(page).locator("figure")).to_have_count(0)
        page.keyboard.press("w")
        expect(toggle).to_have_attribute("aria-expanded", "true")
        expect(panel(page).locator("figure")).to_have_count(2)
        expect(panel(page)).to_contain_text("This is the highest value.")
        expect(panel(page).locator("figure").nth(1)).to_contain_text("good/153.png")
        expect(panel(page).locator("figure").nth(1)).to_contain_text("date unknown")
        expect(panel(page).locator("tbody tr")).to_have_count(2)
        images_load(page)
        assert_accessible(page)
        screenshot(page, "why")

        first = at(page)
        panel(page).get_by_role("button", name="Spot to the right").press("Enter")
        expect(panel(page).locator("[data-why=value]")).not_to_contain_text(f"x {first[0]}, y {first[1]}")
        assert at(page) == (first[0] + 20, first[1])
        panel(page).get_by_role("button", name="Highest value").press("Enter")
        expect(panel(page)).to_contain_text("This is the highest value.")
        panel(page).get_by_role("button", name="Region 1").press("Enter")

        page.locator("body").press("u")  # the next card: the panel stays open
        expect(panel(page)).to_contain_text("This is the highest value.")
        assert at(page) != first
        page.keyboard.press("w")
        expect(panel(page).locator(".why-body")).to_be_hidden()
        press(page, "g")
        all_sent(page)


def test_click_into_the_image_chooses_another_spot(serve: Serve, models: Path, open_page: Open) -> None:
    with serve(models=models) as service:
        fill(service)
        page = open_page(service.client.base_url, "/review?product=widget")
        card(page)
        viewer = page.locator("plumbline-viewer").nth(1)
        page.keyboard.press("w")
        expect(panel(page)).to_contain_text("This is the highest value.")
        box = viewer.locator(".view").bounding_box()
        assert box is not None
        # The middle of the view is the middle of the image.
        viewer.locator(".view").click(position={"x": box["width"] / 2, "y": box["height"] / 2})
        expect(panel(page)).not_to_contain_text("This is the highest value.")
        x, y = at(page)
        assert abs(x - 160) <= 20
        assert abs(y - 120) <= 15
        expect(panel(page).locator("figure").nth(1)).to_contain_text("taken on 1 Mar 2026, according to its name")
        marked = viewer.evaluate("(element) => element.regions.at(-1).polygon")
        (left, top), _, (right, bottom), _ = marked
        assert left <= x <= right
        assert top <= y <= bottom


def test_inspection_page_explains_in_german(serve: Serve, models: Path, open_page: Open) -> None:
    with serve(models=models) as service:
        (inspection,) = fill(service)
        page = open_page(service.client.base_url, f"/inspections/{inspection['id']}", language="de-DE")
        panel(page).get_by_role("button", name="Warum?").click()
        expect(panel(page)).to_contain_text("Das ist der höchste Wert.")
        expect(panel(page).locator("figure").nth(1)).to_contain_text("Ähnlichste gute Stelle")
        expect(panel(page).locator("figure").nth(1)).to_contain_text("Datum unbekannt")
        images_load(page)
        assert_accessible(page)
        x, y = at(page)
        page.locator("plumbline-viewer .view").click(position={"x": 5, "y": 5})
        expect(panel(page)).not_to_contain_text("Das ist der höchste Wert.")
        assert at(page) != (x, y)


def test_panel_fits_a_phone(serve: Serve, models: Path, open_page: Open) -> None:
    with serve(models=models) as service:
        (inspection,) = fill(service)
        page = open_page(service.client.base_url, f"/inspections/{inspection['id']}", size=PHONE)
        panel(page).get_by_role("button", name="Why?").click()
        expect(panel(page).locator("figure")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert_accessible(page)


def test_bundles_without_explanation_or_origins_say_so(serve: Serve, tmp_path: Path, open_page: Open) -> None:
    write_tiny_bundle(tmp_path / "models")
    write_explained_bundle(tmp_path / "models", "gadget")
    with serve(models=tmp_path / "models") as service:
        old = fill(service)[0]["id"]
        page = open_page(service.client.base_url, f"/inspections/{old}")
        watched(page).allow("409")
        panel(page).get_by_role("button", name="Why?").click()
        expect(panel(page)).to_contain_text("it was trained before explanations were stored")
        expect(panel(page).locator("figure")).to_have_count(0)
        expect(panel(page).get_by_role("button", name="Highest value")).to_be_hidden()

        image = encode(part(width=320, height=240, spot=(40, 100, 40)))
        headers = {"content-type": "image/png"}
        made = service.client.post("/v1/products/gadget/inspections", content=image, headers=headers).json()
        page.goto(f"/inspections/{made['id']}")
        expect(panel(page)).to_contain_text("before the origins of normal spots were stored")
        expect(panel(page).locator("figure")).to_have_count(2)
        expect(panel(page).locator("figure svg")).to_have_count(1)
        expect(panel(page).get_by_role("button", name="Highest value")).to_be_visible()


def test_image_that_was_not_judged_has_no_panel(serve: Serve, models: Path, open_page: Open) -> None:
    with serve(models=models) as service:
        recipe = REVIEWED | {"quality": {"min_brightness": 100.0}}
        assert service.client.put("/v1/products/widget/recipe", json=recipe).status_code == 200
        dark = service.inspect(encode(part(brightness=0))).json()
        page = open_page(service.client.base_url, f"/inspections/{dark['id']}")
        expect(page.locator(".reason")).to_be_visible()
        expect(panel(page)).to_have_count(0)
