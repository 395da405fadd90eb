"""The list of products, and the page of thresholds, in a browser; what all pages of a product have."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from service.inspection.calibration import bound_rate
from service.schemas.drift import DriftKind, DriftPoint, DriftReport, DriftStream
from tests.browser import PHONE, Open, assert_accessible, assert_fits, screenshot, watched
from tests.bundles import SCORES, write_tiny_bundle
from tests.running_service import RunningService, Serve
from tests.service.api.test_bundles import FIRST_DAY
from tests.service.api.test_recipe_previews import preview, put
from tests.service.web.products import apply, expect_message, recipe

pytestmark = pytest.mark.slow

THEMES = ("light", "dark", "contrast")


def wait_for_effect(page: Page) -> None:
    expect(page.locator("#effect")).to_have_attribute("aria-busy", "false")


def test_list_of_products_shows_state_bundle_guarantee_and_counts(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products")
    row = page.get_by_role("row").filter(has_text="widget")
    expect(row).to_contain_text("In service")
    expect(row).to_contain_text("Certified")
    expect(row.locator("td.number").first).to_have_text("21")
    expect(row.locator("td.number").nth(2)).to_have_text("6")
    assert_accessible(page)
    assert_fits(page)
    screenshot(page, "products")
    page.get_by_role("link", name="widget").click()
    expect(page.get_by_role("heading", name="widget")).to_be_visible()
    expect(page.get_by_role("navigation", name="Pages of the product").get_by_role("link")).to_have_text(
        ["Thresholds", "Recipe", "History", "Versions", "Drift", "Report"]
    )


def test_threshold_is_moved_its_effect_is_shown_and_it_is_applied_and_undone(
    product: RunningService, open_page: Open
) -> None:
    page = open_page(product.client.base_url, "/products/widget")
    wait_for_effect(page)
    expect(page.get_by_role("button", name="Apply", exact=True)).to_be_disabled()
    expect(page.locator("#effect")).to_contain_text(str(bound_rate(99, 0.01)))
    slider = page.get_by_label("Fail threshold").first
    slider.focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    moved = float(page.locator("#fail-value").input_value())
    assert moved > SCORES[98]
    review_threshold = float(page.locator("#review-value").input_value())
    expected = preview(product, fail_threshold=moved, review_threshold=review_threshold)
    fails = page.locator('tr[data-decision="fail"] .after')
    expect(fails).to_have_text(str(expected.verdicts.after["fail"]))
    assert expected.verdicts.after["fail"] < expected.verdicts.before["fail"]
    page.locator("#fail-value").fill("0.025")
    wait_for_effect(page)
    expect(page.locator(".changed-labelled")).to_have_text("1")
    expect(page.locator("#review-value")).to_have_value("0.025")
    expect(page.get_by_text("A good part would fail")).to_be_visible()
    before = recipe(product)
    assert before["recipe"]["fail_threshold"] == SCORES[98], "nothing is applied yet"
    screenshot(page, "product-thresholds")
    page.get_by_label("exactly these thresholds").check()
    apply(page, "fewer slips")
    expect_message(page, f"Revision {before['revision'] + 1} is in force.")
    applied = recipe(product)
    assert (applied["recipe"]["fail_threshold"], applied["recipe"]["certified"]) == (0.025, False)
    assert applied["reason"] == "fewer slips"
    expect(page.locator(".guarantee")).to_contain_text("No guarantee")
    page.locator("#messages").get_by_role("button", name="Undo").click()
    expect_message(page, "The former thresholds are in force again.")
    assert recipe(product)["recipe"]["fail_threshold"] == SCORES[98]
    assert recipe(product)["recipe"]["certified"]
    expect(page.locator("#fail-value")).to_have_value("0.059")
    expect(page.locator(".guarantee")).to_contain_text("Certified")


def test_other_threshold_returns_while_a_number_is_typed(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget")
    wait_for_effect(page)
    review_threshold = page.locator("#review-value").input_value()
    page.locator("#fail-value").clear()
    page.locator("#fail-value").press_sequentially("0.0")
    expect(page.locator("#review-value")).to_have_value("0")
    page.locator("#fail-value").press_sequentially("7")
    expect(page.locator("#review-value")).to_have_value(review_threshold)


def test_rates_are_not_applied_before_they_are_computed(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget")
    wait_for_effect(page)
    watched(page).allow("Failed to load resource")
    page.context.set_offline(True)
    page.locator("#fail-value").fill("0.1")
    expect(page.locator("#effect")).to_contain_text("The effect could not be computed.")
    expect(page.get_by_role("button", name="Apply", exact=True)).to_be_disabled()
    page.get_by_label("exactly these thresholds").check()
    apply(page, "in the dark")
    expect(page.locator("#apply").get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(page.get_by_label("Reason")).to_have_value("in the dark")
    page.context.set_offline(False)


def test_certified_rates_are_applied_at_the_nearest_thresholds(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget")
    wait_for_effect(page)
    page.locator("#fail-value").fill(str((SCORES[93] + SCORES[94]) / 2))
    wait_for_effect(page)
    expect(page.locator("#effect")).to_contain_text(str(bound_rate(99, 0.06)))
    apply(page, "rates")
    expect_message(page, "is in force.")
    values = recipe(product)["recipe"]
    assert (values["fail_threshold"], values["certified"]) == (SCORES[93], True)
    assert values["target_false_reject_rate"] == 0.06
    expect(page.locator("#fail-value")).to_have_value("0.0565")


def test_concurrent_change_of_thresholds_is_refused_and_shown(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products/widget")
    wait_for_effect(page)
    watched(page).allow("412")
    put(product, regions={"min_area_px": 3.0}, author="Grace", reason="dust")
    page.locator("#fail-value").fill("0.1")
    page.get_by_label("exactly these thresholds").check()
    apply(page, "trial")
    conflict = page.locator("#conflict")
    expect(conflict).to_contain_text("The recipe was changed meanwhile. Nothing was applied.")
    expect(conflict).to_contain_text("Grace")
    expect(conflict).to_contain_text("regions.min_area_px 0 → 3")
    assert recipe(product)["recipe"]["fail_threshold"] == SCORES[98]
    assert_accessible(page)
    page.get_by_role("button", name="Keep my entries").click()
    expect(page.locator("#fail-value")).to_have_value("0.1")
    page.get_by_role("button", name="Apply", exact=True).click()
    expect_message(page, "is in force.")
    values = recipe(product)["recipe"]
    assert (values["fail_threshold"], values["regions"]["min_area_px"]) == (0.1, 3.0), "both changes are in force"


@pytest.mark.parametrize("theme", THEMES)
def test_pages_are_accessible_and_fit(product: RunningService, open_page: Open, theme: str) -> None:
    page = open_page(product.client.base_url, "/products/widget", theme=theme, size=PHONE)
    wait_for_effect(page)
    for tab in ("", "/recipe", "/history", "/versions"):
        if tab:
            page.goto(f"/products/widget{tab}")
        for size in (PHONE, (1280, 800)):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            assert_fits(page)
            screenshot(page, f"product{tab.replace('/', '-')}-{theme}-{size[0]}")
        assert_accessible(page)


def test_pages_speak_german(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/products", language="de-DE")
    expect(page.get_by_role("row").filter(has_text="widget")).to_contain_text("In Betrieb")
    page.goto("/products/widget")
    wait_for_effect(page)
    expect(page.locator("#effect")).to_contain_text("im Mittel")
    expect(page.locator("#effect")).to_contain_text("9,1 %")
    for tab in ("recipe", "history", "versions"):
        page.goto(f"/products/widget/{tab}")
        expect(page.get_by_role("navigation", name="Seiten des Produkts")).to_contain_text("Verlauf")
    assert_accessible(page)


def test_product_without_an_active_bundle_says_why(serve: Serve, open_page: Open, tmp_path: Path) -> None:
    models = tmp_path / "broken"
    write_tiny_bundle(models, offset=0.5, created_at=FIRST_DAY + timedelta(days=1))
    with serve(models=models) as service:
        page = open_page(service.client.base_url, "/products")
        expect(page.get_by_role("row").filter(has_text="widget")).to_contain_text("Not served: broken")
        page.get_by_role("link", name="widget").click()
        expect(page.get_by_role("heading", name="No bundle serves this product")).to_be_visible()
        for tab in ("recipe", "history", "versions"):
            page.goto(f"/products/widget/{tab}")
            expect(page.get_by_role("heading", name="widget", exact=True)).to_be_visible()
        assert_accessible(page)


def drift_stream(kind: DriftKind, **values: Any) -> DriftStream:
    """Return what the service reports of one stream."""
    usual: dict[str, Any] = {
        "station": None,
        "state": "ok",
        "evidence": 0.4,
        "limit": 4.6,
        "suspends_at": 4.6,
        "direction": None,
        "since": FIRST_DAY,
        "onset": None,
        "count": 1234,
        "reference": "card",
        "reference_count": 100,
        "explanation": "The scores are distributed as those of the calibration images.",
        "remedy": None,
        "history": [],
    }
    return DriftStream.model_validate({**usual, "kind": kind, **values})


def drift_report(product: str) -> DriftReport:
    """Return an alarm about the illumination."""
    points = [DriftPoint(at=FIRST_DAY + timedelta(minutes=minute), evidence=minute / 10) for minute in range(60)]
    alarm = drift_stream(
        "brightness", state="alarm", station="st-1", evidence=5.9, onset=FIRST_DAY, history=points,
        direction="higher", explanation="In English.", remedy="In English.",
    )  # fmt: skip
    others = [drift_stream("p_value", history=points[:30]), drift_stream("colour", state="collecting")]
    return DriftReport(product=product, guarantee="suspended", suspension=None, streams=[*others, alarm], alarms=[])


def test_table_of_a_chart_has_the_values_and_the_chart_follows_the_window(
    product: RunningService, open_page: Open
) -> None:
    page = open_page(product.client.base_url, "/products/widget")
    wait_for_effect(page)
    page.locator(".chart summary").click()
    counts = page.locator(".chart tbody tr td:nth-child(3)").all_inner_texts()
    assert sum(map(int, counts)) == len(SCORES)
    assert page.locator(".chart-canvas").get_attribute("aria-label")
    wide = page.locator(".chart canvas").bounding_box()
    page.set_viewport_size({"width": 360, "height": 740})
    width = page.locator(".chart-canvas").evaluate("one => one.clientWidth")
    expect(page.locator(".chart canvas")).to_have_js_property("clientWidth", width)
    narrow = page.locator(".chart canvas").bounding_box()
    assert wide is not None
    assert narrow is not None
    assert narrow["width"] < wide["width"]


def test_drift_is_shown_with_alarms_first_and_acknowledged(
    product: RunningService, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(product.client.base_url, "/products/widget/drift")
    expect(page.get_by_text("No alarm is open.")).to_be_visible()
    expect(page.get_by_text("The guarantee is in force.")).to_be_visible()
    monkeypatch.setattr(product.services.drift, "report", drift_report)
    page = open_page(product.client.base_url, "/products/widget/drift", size=PHONE)
    expect(page.get_by_role("navigation", name="Pages of the product")).to_contain_text("Drift")
    expect(page.locator(".guarantee")).to_contain_text("Guarantee suspended")
    expect(page.locator(".guarantee-text")).to_contain_text("is suspended until the alarms are acknowledged")
    alarm = page.locator(".drift-alarm").first
    expect(alarm).to_contain_text("Brightness · st-1")
    expect(alarm).to_contain_text("The light changed: images are brighter.")
    expect(alarm).to_contain_text("Check the light source, the exposure and stray light.")
    expect(page.locator(".drift-state")).to_have_text(["! drift", "no drift", "collecting the reference"])
    expect(page.locator(".chart canvas")).to_have_count(2)
    page.locator(".chart summary").first.click()
    expect(page.locator(".chart").first.get_by_role("row")).to_have_count(61)
    assert_accessible(page)
    assert_fits(page)
    screenshot(page, "product-drift-phone")
    with page.expect_request("**/v1/products/widget/drift:acknowledge") as sent:
        page.get_by_label("What was found").fill("the light source was replaced")
        page.get_by_role("button", name="Acknowledge").click()
    assert sent.value.post_data_json == {"reason": "the light source was replaced"}
    watched(page).allow("409")
    expect(page.get_by_role("alert")).to_contain_text("alarm")  # the report was made up, so there is nothing to do
