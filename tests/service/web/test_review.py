"""The review page in a browser: reviews by keyboard and by touch, undo, failures, two reviewers, and its appearance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from service.store import reviews as stored_reviews
from tests.access import PASSWORD, make_account
from tests.browser import PHONE, Open, assert_accessible, assert_fits, log_in, screenshot, watched
from tests.bundles import part, write_tiny_bundle
from tests.running_service import RunningService, Serve, encode
from tests.service.api.test_shadow import wait_for

pytestmark = pytest.mark.slow

SHOWN = re.compile("[0-9a-f-]{36}")


def fill(service: RunningService, count: int) -> dict[str, str]:
    """Make inspections with the decision review; return their part ids by id."""
    recipe = {"author": "a", "reason": "b", "fail_threshold": 0.6, "review_threshold": 0.1}
    assert service.client.put("/v1/products/widget/recipe", json=recipe).status_code == 200
    found = {}
    for number in range(count):
        image = encode(part(width=320, height=240, spot=(10 + 12 * number, 100, 40)))
        name = f"P{number:03}"
        made = service.inspect(image, params={"part_id": name, "station": "S1"}).json()
        assert made["decision"] == "review"
        found[made["id"]] = name
    return found


def open_review(open_page: Open, service: RunningService, path: str = "/review?product=widget", **options: Any) -> Page:
    page = open_page(service.client.base_url, path, **options)
    card(page)
    return page


def card(page: Page) -> str:
    """Wait until a card is shown, and return the id of its inspection."""
    element = page.locator("plumbline-review")
    expect(element).to_have_attribute("data-shown", SHOWN)
    return str(element.get_attribute("data-shown"))


def press(page: Page, *keys: str) -> str:
    """Press keys on a card; wait until another one is shown, and return the id of the card that was reviewed."""
    shown = card(page)
    for key in keys:
        page.keyboard.press(key)
    expect(page.locator("plumbline-review")).not_to_have_attribute("data-shown", shown)
    return shown


def stored(service: RunningService, inspection: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.client.get(f"/v1/inspections/{inspection}/reviews").json()["items"]
    return items


def facts(service: RunningService, inspection: str) -> list[tuple[str, str | None, str | None, str]]:
    """Return label, kind, note and state of the reviews of an inspection, oldest first."""
    items = reversed(stored(service, inspection))
    return [(item["label"], item["kind"], item["note"], item["state"]) for item in items]


def all_sent(page: Page) -> None:
    page.wait_for_function(
        "() => Object.keys(sessionStorage).every((key) => !key.startsWith('plumbline-reviews:') "
        "|| sessionStorage.getItem(key) === '[]')"
    )


def test_a_dozen_reviews_by_keyboard_alone(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        parts = fill(service, 14)
        page = open_review(open_page, service)
        first = card(page)
        expect(page.locator("[data-part=part]")).to_have_text(parts[first])
        expect(page.locator("[data-part=station]")).to_have_text("S1")
        expect(page.locator("[data-part=reasons]")).to_have_text("The decision is review.")
        expect(page.locator(".review-facts .decision:visible")).to_have_text("Review")
        expect(page.locator("[data-part=progress-text]")).to_have_text("0 reviewed, 14 left")
        assert_accessible(page)
        expected: dict[str, list[tuple[str, str | None, str | None, str]]] = {}

        def do(*keys: str) -> str:
            return press(page, *keys)

        for _ in range(3):
            expected[do("g")] = [("good", None, None, "current")]
        expected[do("d", *"scratch", "Enter")] = [("defect", "scratch", None, "current")]
        expected[do("1")] = [("defect", "scratch", None, "current")]
        expected[do("d", "1")] = [("defect", "scratch", None, "current")]
        expected[do("d", "Enter")] = [("defect", None, None, "current")]
        expected[do("u")] = [("unsure", None, None, "current")]
        page.keyboard.press("n")
        page.keyboard.type("left edge, g d u")
        page.keyboard.press("Enter")
        expect(page.locator("[data-part=note-text]")).to_have_text("left edge, g d u")
        screenshot(page, "review")
        expected[do("g")] = [("good", None, "left edge, g d u", "current")]
        expect(page.locator("[data-part=note-shown]")).to_be_hidden()

        wrong = do("g")
        expect(page.locator("[data-part=progress-text]")).to_have_text("10 reviewed, 4 left")
        page.keyboard.press("z")
        expect(page.locator("plumbline-review")).to_have_attribute("data-shown", wrong)
        expect(page.locator("[data-part=progress-text]")).to_have_text("9 reviewed, 5 left")
        assert do("d", *"dent", "Enter") == wrong
        expected[wrong] = [("good", None, None, "withdrawn"), ("defect", "dent", None, "current")]
        skipped = do("s")
        page.keyboard.press("d")
        expect(page.locator("[data-part=kind-input]")).to_be_focused()
        page.keyboard.press("Escape")
        expected[do("2")] = [("defect", "dent", None, "current")]
        expected[do("g")] = [("good", None, None, "current")]
        expected[card(page)] = [("good", None, None, "current")]
        page.keyboard.press("g")
        page.get_by_role("heading", name="Nothing to review").wait_for()
        expect(page.locator("[data-part=skipped-text]")).to_have_text("Skipped in this session: 1")
        assert_accessible(page)
        page.get_by_role("button", name="Show skipped cards again").press("Enter")
        assert card(page) == skipped
        expected[skipped] = [("good", None, None, "current")]
        page.keyboard.press("g")
        page.get_by_role("heading", name="Nothing to review").wait_for()
        all_sent(page)
        assert len(expected) == 14
        undone = expected.pop(wrong)
        # The first review of the card that was undone is withdrawn, or it was not sent in time.
        assert facts(service, wrong) in (undone, undone[1:])
        for name, reviews in expected.items():
            assert facts(service, name) == reviews, parts[name]


def test_review_is_sent_again_until_it_is_stored(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        fill(service, 3)
        page = open_review(open_page, service)
        watched(page).allow("503")
        failures = [503, 503, 503]

        def fail(route: Route) -> None:
            if failures:
                route.fulfill(status=failures.pop(), content_type="application/problem+json", body='{"detail": "busy"}')
            else:
                route.continue_()

        page.route("**/*:review", fail)
        first = press(page, "g")
        second = press(page, "u")
        expect(page.locator("[data-part=waiting-text]")).to_contain_text("Reviews that are not stored yet: 2.")
        page.reload()
        card(page)
        assert card(page) not in {first, second}, "what waits to be sent is not shown again"
        all_sent(page)
        expect(page.locator("[data-part=waiting]")).to_be_hidden()
        assert facts(service, first) == [("good", None, None, "current")]
        assert facts(service, second) == [("unsure", None, None, "current")]


def test_lost_response_does_not_double_a_review(serve: Serve, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_reviews, "REPEAT_S", 0.0)
    with serve() as service:
        fill(service, 3)
        page = open_review(open_page, service)
        watched(page).allow("ERR_FAILED")
        losses = [True]

        def lose(route: Route) -> None:
            if losses:
                losses.pop()
                route.fetch()
                route.abort()
            else:
                route.continue_()

        page.route("**/*:review", lose)
        first = press(page, "d", *"burr", "Enter")
        second = press(page, "g")
        all_sent(page)
        assert facts(service, first) == [("defect", "burr", None, "current")]
        page.keyboard.press("z")
        page.keyboard.press("z")
        expect(page.locator("plumbline-review")).to_have_attribute("data-shown", first)
        all_sent(page)
        assert [facts(service, name)[0][3] for name in (first, second)] == ["withdrawn"] * 2


def test_refused_review_brings_the_card_back(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        parts = fill(service, 3)
        page = open_review(open_page, service)
        watched(page).allow("422")
        refusals = [True]

        def refuse(route: Route) -> None:
            if refusals:
                refusals.pop()
                route.fulfill(status=422, content_type="application/problem+json", body='{"detail": "Not valid."}')
            else:
                route.continue_()

        page.route("**/*:review", refuse)
        first = press(page, "g")
        message = page.locator(".message.error")
        expect(message).to_contain_text(f"The review of {parts[first]} was not stored: Not valid.")
        expect(page.locator("[data-part=progress-text]")).to_have_text("0 reviewed, 3 left")
        press(page, "g")
        assert card(page) == first, "it is the next card"
        press(page, "g")
        all_sent(page)
        assert facts(service, first) == [("good", None, None, "current")]


def test_two_reviewers_and_two_tabs_do_not_disturb_each_other(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        parts = fill(service, 4)
        engine = service.store.engine
        for name in ("ada", "bob"):
            make_account(engine, name)
        headers = {"accept": "text/html"}
        wait_for(lambda: service.client.get("/review", headers=headers).status_code == 303)
        pages = []
        for name in ("ada", "bob"):
            page = open_page(service.client.base_url, "/review?product=widget")
            log_in(page, name, PASSWORD)
            pages.append(page)
        ada, bob = pages
        assert card(ada) == card(bob)
        other = ada.context.new_page()
        other.goto("/review?product=widget")
        assert card(other) == card(ada), "the same reviewer in a second tab"
        done = [press(ada, "g"), press(ada, "g")]
        expect(other.locator("[data-part=progress-text]")).to_have_text("0 reviewed, 3 left")
        assert card(other) == done[0], "the card that is shown stays"
        press(other, "s")
        assert card(other) == card(ada), "the one that was reviewed in the first tab is left out"
        press(bob, "u")
        all_sent(ada)
        all_sent(bob)
        session = service.client.post("/v1/access/login", json={"name": "ada", "password": PASSWORD})
        assert session.status_code == 200
        reviews = {(item["reviewer"], item["label"]) for item in stored(service, done[0])}
        assert reviews == {("ada", "good"), ("bob", "unsure")}
        assert len(parts) == 4


def test_phone_in_german(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        fill(service, 2)
        page = open_review(open_page, service, size=PHONE, language="de-DE")
        expect(page.locator("plumbline-viewer")).to_have_count(2)
        expect(page.locator("[data-part=heatmap]")).to_be_hidden()
        page.keyboard.press("0")
        [image, buttons] = [page.locator(one).bounding_box() for one in ("[data-part=image] .view", ".review-actions")]
        assert image is not None
        assert buttons is not None
        assert image["y"] + image["height"] <= buttons["y"]
        viewer = page.locator("[data-part=image]")
        assert viewer.evaluate("viewer => viewer.blend") == 0.6
        expect(viewer.get_by_role("slider", name="Heatmap")).to_be_visible()
        assert_fits(page)
        assert_accessible(page)
        screenshot(page, "review-phone-de")
        for name in ("Gut", "Defekt", "Unklar", "Überspringen", "Notiz"):
            box = page.locator(".review-actions").get_by_role("button", name=name).bounding_box()
            assert box is not None
            assert box["height"] >= 44
        first = card(page)
        page.locator(".review-actions").get_by_role("button", name="Defekt").click()
        page.get_by_label("Art des Defekts").fill("Kratzer")
        page.locator("[data-part=kind-panel]").get_by_role("button", name="Defekt").click()
        expect(page.locator("plumbline-review")).not_to_have_attribute("data-shown", first)
        page.get_by_role("button", name="1 Kratzer").click()
        page.get_by_role("heading", name="Nichts zu bewerten").wait_for()
        assert_fits(page)
        all_sent(page)
        assert facts(service, first) == [("defect", "Kratzer", None, "current")]


def test_keys_zoom_both_images_and_can_be_turned_off(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        fill(service, 2)
        page = open_review(open_page, service, theme="dark")
        shown = card(page)
        page.keyboard.press("+")
        page.keyboard.press("ArrowLeft")
        views = page.evaluate("[...document.querySelectorAll('plumbline-viewer')].map((viewer) => viewer.view)")
        assert views[0] == views[1]
        assert views[0]["zoom"] == 1.5
        page.keyboard.down("h")
        opacities = (
            "[...document.querySelectorAll('plumbline-viewer')]"
            ".map((one) => one.shadowRoot.querySelectorAll('img')[1].style.opacity)"
        )
        assert page.evaluate(opacities) == ["1", "0"], "the heatmap changes sides"
        page.keyboard.up("h")
        assert page.evaluate(opacities) == ["0", "0.6"]
        screenshot(page, "review-dark")
        page.get_by_text("Keys", exact=True).click()
        page.get_by_label("Use these keys").uncheck()
        assert_accessible(page)
        page.keyboard.press("g")
        page.keyboard.press("+")
        assert card(page) == shown
        page.reload()
        card(page)
        page.keyboard.press("g")
        assert card(page) == shown
        page.get_by_role("button", name="Good").click()
        expect(page.locator("plumbline-review")).not_to_have_attribute("data-shown", shown)


def test_product_is_chosen_and_an_empty_queue_says_so(serve: Serve, open_page: Open, tmp_path: Path) -> None:
    for product in ("bolt", "widget"):
        write_tiny_bundle(tmp_path / "models", product)
    with serve(models=tmp_path / "models") as service:
        page = open_page(service.client.base_url, "/review")
        assert_accessible(page)
        page.get_by_role("link", name="bolt").click()
        page.get_by_role("heading", name="Nothing to review").wait_for()
        expect(page.get_by_role("link", name="bolt")).to_have_attribute("aria-current", "page")
        screenshot(page, "review-empty")
        page.get_by_text("Other product").click()
        page.get_by_role("link", name="widget").click()
        page.get_by_role("heading", name="Nothing to review").wait_for()
        name = service.inspect(encode(part(spot=(20, 30, 8)))).json()["id"]
        page.get_by_role("button", name="Look again now").click()
        assert card(page) == name, "a failed part is in the sample"
        expect(page.locator("[data-part=reasons]")).to_have_text("Drawn as a sample.")
        assert service.client.get("/review", params={"product": "nothing"}).status_code == 404


def test_image_that_is_removed_meanwhile_can_be_skipped(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        fill(service, 2)
        for file in service.settings.data.rglob("*.png"):
            file.unlink()
        page = open_page(service.client.base_url, "/review?product=widget")
        watched(page).allow("410")
        expect(page.locator("[data-part=image] .note")).to_contain_text("The image cannot be shown.")
        press(page, "s")
