"""The editor and the history of a recipe in a browser."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from playwright.sync_api import Page, expect

from service.schemas.sections import DecisionName, Keep, RecipeParts
from tests.browser import Open, assert_accessible, screenshot, watched
from tests.running_service import BAD, RunningService
from tests.service.api.test_recipe_previews import put
from tests.service.web.products import apply, expect_message, recipe

pytestmark = pytest.mark.slow


def test_every_field_of_the_recipe_can_be_edited(product: RunningService, open_page: Open) -> None:
    revision = recipe(product)["revision"]
    page = open_page(product.client.base_url, "/products/widget/recipe")
    for path, value in EDITED.items():
        field = page.locator(f'[data-path="{path}"]')
        if field.evaluate("one => one.tagName") == "SELECT":
            field.select_option(str(value))
        elif value is True:
            field.check()
        else:
            field.fill(str(value))
    page.get_by_label("blurred").check()
    order = page.locator('[data-path="storage.keep_longer"] select')
    order.nth(0).select_option("review")
    order.nth(1).select_option("fail")
    apply(page, "everything")
    expect_message(page, "is in force.")
    values = recipe(product)["recipe"]
    for path, value in EDITED.items():
        found: Any = values
        for key in path.split("."):
            found = found[key]
        assert found == POLYGONS.get(path, value), path
    assert values["quality"]["off"] == ["blurred"]
    assert values["storage"]["keep_longer"] == ["review", "fail"]
    page.locator("#messages").get_by_role("button", name="Undo").click()
    expect(page.locator("#revision")).to_have_text(str(revision + 2))
    assert recipe(product)["recipe"]["regions"] == {
        "merge_distance_px": 0, "border_margin_px": 0, "min_area_px": 0, "min_peak": None, "max_count": 50,
    }  # fmt: skip


EDITED: dict[str, Any] = {
    "roi": "0,0 60,0 60,60 0,60",
    "ignore": "1,1 9,1 9,9",
    "quality.min_brightness": 40,
    "quality.max_brightness": 220,
    "quality.max_dark_share": 0.5,
    "quality.max_bright_share": 0.6,
    "quality.min_sharpness": 0,
    "quality.min_contrast": 0,
    "quality.frozen_after": 50,
    "regions.merge_distance_px": 2,
    "regions.border_margin_px": 1,
    "regions.min_area_px": 3.5,
    "regions.min_peak": 0.01,
    "regions.max_count": 20,
    "target_false_reject_rate": 0.05,
    "review_rate": 0.2,
    "heatmap.low": 0.001,
    "heatmap.high": 0.2,
    "pixels.pixel_format": "Mono12p",
    "pixels.bit_depth": 12,
    "pixels.black_level": 10,
    "pixels.white_level": 4000,
    "pixels.width": 64,
    "pixels.height": 64,
    "pixels.tolerate_stray_bytes": True,
    "retention.pass.days": 90,
    "retention.pass.count": 1000,
    "retention.review.days": 91,
    "retention.fail.days": 92,
    "retention.invalid.count": 500,
    "storage.max_bytes": 10_000_000,
}


POLYGONS = {"roi": [[[0, 0], [60, 0], [60, 60], [0, 60]]], "ignore": [[[1, 1], [9, 1], [9, 9]]]}


def test_every_value_of_a_recipe_has_a_field(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget/recipe")
    found = set(page.locator("[data-path]").evaluate_all("all => all.map((one) => one.dataset.path)"))
    sections: dict[str, Any] = {name: field.annotation for name, field in RecipeParts.model_fields.items()}
    expected = {"roi", "ignore", "target_false_reject_rate", "review_rate", "proposal_id"}
    for name in ("regions", "heatmap", "pixels", "quality", "storage"):
        expected |= {f"{name}.{field}" for field in sections[name].model_fields}
    expected |= {f"retention.{decision}.{field}" for decision in get_args(DecisionName) for field in Keep.model_fields}
    assert found == expected, "the editor has a field for each value"


def draw(page: Page, kind: str, corners: list[tuple[float, float]]) -> None:
    """Draw a polygon with the mouse; corners are shares of the image, which is square."""
    editor = page.locator("#area")
    editor.get_by_role("button", name=kind).click()
    stage = editor.locator(".stage").bounding_box()
    assert stage is not None
    for x, y in [*corners, corners[0]]:
        page.mouse.click(stage["x"] + x * stage["width"], stage["y"] + y * stage["height"])


def test_polygons_are_drawn_on_an_image_with_the_mouse(own_product: RunningService, open_page: Open) -> None:
    page = open_page(own_product.client.base_url, "/products/widget/recipe")
    editor = page.locator("#area")
    expect(editor).to_have_attribute("data-state", "ready")
    draw(page, "Draw ROI", [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)])
    draw(page, "Draw ignored area", [(0.2, 0.4), (0.55, 0.4), (0.55, 0.7), (0.2, 0.7)])
    assert len(page.locator("#roi").input_value().split()) == 4
    expect(page.locator("#change-effect")).to_contain_text("1 would be decided differently: Fail → Pass 1")
    screenshot(page, "product-recipe-polygons")
    apply(page, "the serial number")
    expect_message(page, "is in force.")
    values = recipe(own_product)["recipe"]
    (roi,), (ignore,) = values["roi"], values["ignore"]
    assert [value for point in roi for value in point] == pytest.approx(
        [6.4, 6.4, 57.6, 6.4, 57.6, 57.6, 6.4, 57.6], abs=0.5
    )
    assert len(ignore) == 4
    assert own_product.inspect(BAD).json()["decision"] == "pass", "the spot is ignored from the next image on"


def test_polygon_is_drawn_by_keyboard_and_shown_as_numbers(product: RunningService, open_page: Open) -> None:
    put(product, ignore=[[[1, 1], [9, 1], [9, 9]]])
    page = open_page(product.client.base_url, "/products/widget/recipe")
    editor = page.locator("#area")
    expect(editor).to_have_attribute("data-state", "ready")
    editor.get_by_role("button", name="Draw ROI").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    drawn = page.locator("#roi").input_value()
    assert len(drawn.split()) == 4, "a rectangle"
    assert page.locator("#ignore").input_value() == "1,1 9,1 9,9"
    page.locator("#roi").fill("0,0 60,0 60,60 0,60")
    assert editor.evaluate("one => one.area.roi") == [[[0, 0], [60, 0], [60, 60], [0, 60]]]
    page.get_by_label("Reason").fill("frame")
    page.keyboard.press("Enter")
    expect_message(page, "is in force.")
    values = recipe(product)["recipe"]
    assert values["roi"] == [[[0, 0], [60, 0], [60, 60], [0, 60]]]
    assert values["ignore"] == [[[1, 1], [9, 1], [9, 9]]]


def test_errors_are_shown_at_their_fields_and_the_effect_before_applying(
    product: RunningService, open_page: Open
) -> None:
    page = open_page(product.client.base_url, "/products/widget/recipe")
    watched(page).allow("422")
    page.locator('[data-path="quality.max_brightness"]').fill("132")
    expect(page.locator("#change-effect")).to_contain_text(
        "Of the newest 21 inspections, 15 would be decided differently"
    )
    expect(page.locator("#change-effect")).to_contain_text("Fail → Invalid 5")
    page.locator('[data-path="pixels.black_level"]').fill("200")
    page.locator('[data-path="pixels.white_level"]').fill("100")
    section = page.locator('fieldset[data-section="pixels"]')
    expect(section.locator(".problem")).to_contain_text("black_level 200 is not below white_level 100")
    expect(page.locator('[data-path="pixels.white_level"]')).to_be_focused()
    page.locator('[data-path="pixels.white_level"]').fill("")
    page.locator('[data-path="pixels.black_level"]').fill("")
    page.locator("#roi").fill("0,0 10,10 10,0 0,10")
    field = page.locator('[data-field="roi"]')
    expect(field.locator(".problem")).to_contain_text("intersects")
    expect(page.locator("#roi")).to_have_attribute("aria-invalid", "true")
    assert_accessible(page)
    assert recipe(product)["recipe"]["quality"]["max_brightness"] is None


def test_removal_of_many_images_needs_a_confirmation(own_product: RunningService, open_page: Open) -> None:
    page = open_page(own_product.client.base_url, "/products/widget/recipe")
    watched(page).allow("409")
    page.locator('[data-path="retention.pass.count"]').fill("1")
    apply(page, "disk is full")
    box = page.get_by_label("The images of 14 inspections would be removed")
    expect(box).to_be_visible()
    assert recipe(own_product)["revision"] == 1
    box.check()
    page.get_by_role("button", name="Apply", exact=True).click()
    expect_message(page, "is in force.")
    assert recipe(own_product)["recipe"]["retention"] == {"pass": {"days": None, "count": 1}}


def test_concurrent_change_of_the_recipe_is_refused_and_shown(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget/recipe")
    watched(page).allow("412")
    put(product, heatmap={"high": 0.3}, author="Grace", reason="too red")
    page.locator('[data-path="regions.min_area_px"]').fill("7")
    apply(page, "dust")
    expect(page.locator("#conflict")).to_contain_text("heatmap.high null → 0.3")
    assert recipe(product)["recipe"]["regions"]["min_area_px"] == 0
    page.get_by_role("button", name="Keep my entries").click()
    expect(page.locator('[data-path="heatmap.high"]')).to_have_value("0.3")
    page.get_by_role("button", name="Apply", exact=True).click()
    expect_message(page, "is in force.")
    values = recipe(product)["recipe"]
    assert (values["regions"]["min_area_px"], values["heatmap"]["high"]) == (7.0, 0.3)


def test_undo_restores_the_values_and_keeps_other_entries(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget/recipe")
    area, black_level = (
        page.locator('[data-path="regions.min_area_px"]'),
        page.locator('[data-path="pixels.black_level"]'),
    )
    area.fill("7")
    page.locator("#roi").fill("0,0 60,0 60,60 0,60")
    apply(page, "dust")
    expect_message(page, "is in force.")
    black_level.fill("3")
    page.locator("#messages").get_by_role("button", name="Undo").click()
    expect_message(page, "The former recipe is in force again.")
    expect(area).to_have_value("0")
    expect(page.locator("#roi")).to_have_value("")
    assert page.locator("#area").evaluate("one => one.area.roi") == []
    expect(black_level).to_have_value("3")
    expect(page.locator("#revision")).to_have_text(str(recipe(product)["revision"]))


def test_entries_survive_another_image_and_are_not_left_by_accident(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget/recipe")
    viewer = page.locator("#area")
    expect(viewer).to_have_attribute("data-state", "ready")
    page.locator("#roi").fill("0,0 60,0 60,60 0,60")
    other = page.locator(".image-choice a").nth(2)
    identity = str(other.get_attribute("href")).partition("=")[2]
    other.click()
    expect(viewer).to_have_attribute("src", re.compile(identity))
    expect(viewer).to_have_attribute("data-state", "ready")
    expect(other).to_have_attribute("aria-current", "true")
    expect(page.locator("#roi")).to_have_value("0,0 60,0 60,60 0,60")
    assert page.locator("#area").evaluate("one => one.area.roi.length") == 1
    assert page.url.endswith(f"/products/widget/recipe?inspection={identity}")
    page.once("dialog", lambda dialog: dialog.dismiss())
    with page.expect_event("dialog") as asked:
        page.get_by_role("link", name="History").click(no_wait_after=True)
    assert asked.value.type == "beforeunload"
    expect(page.locator("#roi")).to_have_value("0,0 60,0 60,60 0,60")


def test_first_revision_has_nothing_to_compare_and_one_bundle_is_explained(
    own_product: RunningService, open_page: Open
) -> None:
    page = open_page(own_product.client.base_url, "/products/widget/history")
    expect(page.get_by_text("in force")).to_be_visible()
    expect(page.get_by_role("button", name="Compare")).to_have_count(0)
    expect(page.get_by_role("heading")).to_have_text(["widget", "Revisions"])
    page.get_by_role("link", name="Versions").click()
    expect(page.get_by_text("Another bundle appears here")).to_be_visible()


def test_history_shows_differences_and_reverts(product: RunningService, open_page: Open) -> None:
    first = recipe(product)["revision"]
    second = put(product, regions={"min_area_px": 3.0})["revision"]
    third = put(product, heatmap={"high": 0.3})["revision"]
    page = open_page(product.client.base_url, "/products/widget/history")
    differences = page.locator(".differences")
    expect(differences).to_contain_text("heatmap.high")
    expect(differences).not_to_contain_text("regions.min_area_px")
    page.get_by_label(f"Compare revision {first}", exact=True).check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(differences).to_contain_text("regions.min_area_px")
    expect(page.get_by_role("heading", name=f"Differences between revision {first} and {third}")).to_be_visible()
    opened = page.locator(f"#revert-{second}")
    page.get_by_role("row").filter(has_text=f"{second} ").get_by_role("link", name="Revert").first.click()
    expect(opened).to_be_visible()
    opened.get_by_label("Reason").fill("too red")
    opened.get_by_role("button").click()
    expect(page.locator("#revision")).to_have_text(str(third + 1))
    expect_message(page, f"The values of revision {second} are in force again.")
    values = recipe(product)["recipe"]
    assert (values["heatmap"]["high"], values["regions"]["min_area_px"]) == (None, 3.0)
    page.goto("/products/widget/history?before=1&after=99")
    expect(page.get_by_role("alert")).to_contain_text("99")
    watched(page).allow("404")
