"""The live page in a browser: what an operator sees, does, and is told when the connection is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect

from tests.access import PASSWORD, make_account
from tests.browser import PHONE, Open, assert_accessible, assert_fits, log_in, screenshot, watched
from tests.bundles import part
from tests.running_service import BAD, RunningService, Serve, encode
from tests.service.api.test_events import add
from tests.service.api.test_shadow import wait_for

pytestmark = pytest.mark.slow

DARK = encode(part(brightness=3))


def shown(page: Page, identity: str, decision: str) -> None:
    """Wait until an inspection is shown, with its image."""
    live = page.locator("#live")
    expect(live).to_have_attribute("data-id", identity)
    expect(page.locator("#verdict")).to_have_text(re.compile(decision, re.IGNORECASE))
    expect(page.locator("#viewer")).to_have_attribute("data-state", "ready")


def refuse_dark_images(service: RunningService) -> None:
    body = {"author": "a", "reason": "b", "quality": {"min_brightness": 40}}
    response = service.client.put("/v1/products/widget/recipe", json=body)
    assert response.status_code in {200, 201}, response.text


def connected(page: Page) -> Page:
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    return page


@pytest.fixture
def fresh(serve: Serve) -> Iterator[RunningService]:
    with serve() as service:
        yield service


def test_operator_sees_results_as_they_happen(fresh: RunningService, open_page: Open) -> None:
    page = connected(open_page(fresh.client.base_url, "/"))
    assert page.title() == "Live · Plumbline"
    expect(page.get_by_role("link", name="Live", exact=True)).to_have_attribute("aria-current", "page")
    expect(page.locator("#empty")).to_be_visible()
    assert_accessible(page)
    good = add(fresh, part_id="1", station="A", lot="L7")
    shown(page, good, "pass")
    bad = add(fresh, BAD, part_id="2", station="A")
    shown(page, bad, "fail")
    expect(page.locator("#fact-part")).to_have_text("2")
    expect(page.locator("#fact-station")).to_have_text("A")
    expect(page.locator("#gauge-text")).to_contain_text("fail above")
    expect(page.locator('[data-count="total"]')).to_have_text("2")
    expect(page.locator('[data-count="fail"]')).to_have_text("1")
    expect(page.locator('[data-count="times"]')).to_contain_text("ms")
    expect(page.locator("#strip img")).to_have_count(2)
    assert page.evaluate("document.getElementById('viewer').regions.length") >= 1
    size = page.locator("#verdict .decision").evaluate("one => parseFloat(getComputedStyle(one).fontSize)")
    assert size >= 40  # readable from three metres
    assert_accessible(page)
    assert_fits(page)
    screenshot(page, "live")
    refuse_dark_images(fresh)
    invalid = add(fresh, DARK)
    expect(page.locator("#live")).to_have_attribute("data-id", invalid)
    expect(page.locator("#verdict")).to_have_text(re.compile("invalid", re.IGNORECASE))
    expect(page.locator("#reasons")).to_be_visible()
    expect(page.locator("#gauge")).to_be_hidden()
    assert_accessible(page)


def test_failed_part_stays_visible_and_is_found_by_decision(fresh: RunningService, open_page: Open) -> None:
    page = connected(open_page(fresh.client.base_url, "/"))
    bad = add(fresh, BAD, part_id="bad")
    shown(page, bad, "fail")
    since = page.evaluate("performance.now()")
    last = [add(fresh) for _ in range(6)][-1]
    expect(page.locator("#live")).to_have_attribute("data-id", last)
    assert page.evaluate("performance.now()") - since > 1500
    expect(page.locator("#strip li")).to_have_count(7)
    page.get_by_role("button", name="Fail", exact=True).click()
    expect(page.locator("#strip li")).to_have_count(1)
    page.locator("#strip li button").click()
    shown(page, bad, "fail")
    expect(page.locator("#connection")).to_contain_text("Paused")


def test_pause_step_and_back_to_live_by_keyboard(fresh: RunningService, open_page: Open) -> None:
    ids = [add(fresh, part_id=str(number)) for number in range(4)]
    page = connected(open_page(fresh.client.base_url, "/"))
    shown(page, ids[3], "pass")
    expect(page.locator("#strip li")).to_have_count(4)
    page.keyboard.press("p")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    newer = add(fresh)
    expect(page.locator("#connection")).to_have_text("Paused · 1 new")
    page.keyboard.press("ArrowRight")
    shown(page, ids[2], "pass")
    page.keyboard.press("ArrowRight")
    shown(page, ids[1], "pass")
    page.keyboard.press("ArrowLeft")
    shown(page, ids[2], "pass")
    assert_accessible(page)
    screenshot(page, "live-paused")
    page.keyboard.press("l")
    shown(page, newer, "pass")
    expect(page.locator("#connection")).to_be_hidden()
    page.keyboard.press("Space")
    expect(page.locator("#to-live")).to_be_visible()
    page.keyboard.press("Space")
    expect(page.locator("#to-live")).to_be_hidden()


def test_filter_is_in_the_url(fresh: RunningService, open_page: Open) -> None:
    here, there = add(fresh, station="A"), add(fresh, station="B")
    page = connected(open_page(fresh.client.base_url, "/"))
    shown(page, there, "pass")
    page.get_by_label("Station").fill("A")
    with page.expect_navigation():
        page.get_by_label("Station").press("Enter")
        page.get_by_label("Station").blur()
    assert page.url.endswith("/?station=A")
    connected(page)
    shown(page, here, "pass")
    add(fresh, station="B")
    newest = add(fresh, station="A")
    shown(page, newest, "pass")
    expect(page.locator('[data-count="total"]')).to_have_text("2")
    with page.expect_navigation():
        page.get_by_label("Product").select_option("widget")
    assert page.url.endswith("/?product=widget&station=A")


def test_lost_connection_is_said_and_nothing_is_missed(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        page = connected(open_page(service.client.base_url, "/"))
        watched(page).allow("ERR_|Failed to load|Failed to fetch")
        shown(page, add(service), "pass")
        page.context.set_offline(True)
        for stream in list(service.services.events._streams):
            service.server.servers[0].get_loop().call_soon_threadsafe(stream.end)
        lost_at = page.evaluate("performance.now()")
        expect(page.locator("#connection")).to_contain_text("No connection", timeout=4000)
        assert page.evaluate("performance.now()") - lost_at < 3500
        screenshot(page, "live-lost")
        missed = [add(service, BAD if number == 1 else encode(part(brightness=120 + number))) for number in range(4)]
        page.context.set_offline(False)
        expect(page.locator("#connection")).to_be_hidden()
        expect(page.locator("#strip li")).to_have_count(5)
        for identity in missed:
            expect(page.locator(f'#strip [data-id="{identity}"]')).to_have_count(1)


def test_two_tabs_and_a_phone_in_german(fresh: RunningService, open_page: Open) -> None:
    first = connected(open_page(fresh.client.base_url, "/", theme="dark"))
    second = first.context.new_page()
    second.goto("/")
    connected(second)
    phone = connected(open_page(fresh.client.base_url, "/", size=PHONE, language="de-DE"))
    bad = add(fresh, BAD, part_id="4711")
    for page, text in ((first, "fail"), (second, "fail"), (phone, "schlecht")):
        shown(page, bad, text)
    assert_fits(phone)
    assert_accessible(phone)
    assert_accessible(first)
    screenshot(phone, "live-phone-german")
    screenshot(first, "live-dark")


def test_advice_for_programs_is_not_shown_while_the_service_stops(fresh: RunningService, open_page: Open) -> None:
    page = open_page(fresh.client.base_url, "/account")
    watched(page).allow("503")
    kind = "shutting-down"

    def refuse(route: Route) -> None:
        body = {"type": f"/problems#{kind}", "title": "t", "status": 503, "detail": "Send the image again."}
        route.fulfill(status=503, content_type="application/problem+json", body=json.dumps(body))

    page.route("**/v1/inspections:events*", refuse)
    page.goto("/")
    banner = page.locator("#connection")
    expect(banner).to_contain_text("No connection")
    kind = "too-many-event-streams"
    expect(banner).to_have_text("The service refuses the connection: Send the image again.")
    page.route("**/v1/inspections:events*", lambda route: route.abort())
    watched(page).allow("ERR_FAILED")
    expect(banner).to_contain_text("No connection")


def test_good_part_has_no_colour(fresh: RunningService, open_page: Open) -> None:
    page = connected(open_page(fresh.client.base_url, "/"))
    colour = "element => getComputedStyle(element).fill"
    shown(page, add(fresh, BAD), "fail")
    red = page.locator(".gauge-fail").evaluate(colour)
    shown(page, add(fresh), "pass")
    expect(page.locator(".gauge-fail")).not_to_have_css("fill", red)
    for zone in (".gauge-good", ".gauge-review", ".gauge-fail"):
        red, green, blue = (int(value) for value in re.findall(r"\d+", page.locator(zone).evaluate(colour))[:3])
        assert max(red, green, blue) - min(red, green, blue) <= 16, zone


def test_all_of_the_shift_is_visible_below_alarms(fresh: RunningService, open_page: Open) -> None:
    refuse_dark_images(fresh)
    for number in range(20):
        add(fresh, BAD, station="A", part_id=f"part-{number}-gy")
    page = connected(open_page(fresh.client.base_url, "/", language="de-DE"))
    invalid = [add(fresh, DARK, station="B") for _ in range(10)]
    shown(page, invalid[-1], "ungültig")
    expect(page.locator(".alarm")).to_have_count(2)
    expect(page.locator(".alarm").first).to_contain_text("nicht verwendbar: zu dunkel.")
    expect(page.locator(".alarm .button")).to_have_count(0)  # they would lead to this page
    height = page.viewport_size["height"]  # type: ignore[index]
    counters = page.locator(".live-counters")
    page.keyboard.press("p")
    expect(page.locator("#connection")).to_be_visible()
    for where in (counters, page.locator("#pause")):
        box = where.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= height
    clipped = """elements => elements.filter(one => one.scrollWidth > one.clientWidth
        || one.getBoundingClientRect().bottom > one.closest("button, p").getBoundingClientRect().bottom)
        .map(one => one.outerHTML)"""
    assert page.locator(".verdict .decision, .strip .decision").evaluate_all(clipped) == []
    page.locator('[data-show="fail"]').click()
    expect(page.locator("#strip li")).to_have_count(12)
    assert page.locator(".strip .decision").evaluate_all(clipped) == []
    screenshot(page, "live-two-alarms-german")


def test_pause_does_not_move_the_button_below_the_finger(fresh: RunningService, open_page: Open) -> None:
    page = connected(open_page(fresh.client.base_url, "/"))
    shown(page, add(fresh), "pass")
    before = page.locator("#pause").bounding_box()
    page.locator("#pause").click()
    expect(page.locator("#connection")).to_be_visible()
    after = page.locator("#pause").bounding_box()
    assert before is not None
    assert after is not None
    finger = before["y"] + before["height"] / 2
    assert after["y"] + 8 < finger < after["y"] + after["height"] - 8


def test_programs_receive_the_index_and_persons_log_in(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        assert service.client.get("/").json()["service"] == "plumbline"
        make_account(service.store.engine, "ada", "operator")
        wait_for(lambda: service.client.get("/v1/products").status_code == 401)
        page = open_page(service.client.base_url, "/?station=A")
        log_in(page, "ada", PASSWORD)
        connected(page)
        assert "station=A" in page.url
        expect(page.get_by_role("link", name="Products")).to_have_count(0)


def test_alarm_bar(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        page = connected(open_page(service.client.base_url, "/"))
        expect(page.locator("#alarms")).to_be_attached()
        refuse_dark_images(service)
        for _ in range(12):
            add(service, DARK, station="A")
        line = page.locator(".alarm.critical")
        expect(line).to_contain_text("widget · A")
        expect(line).to_contain_text("images cannot be used")
        expect(line).to_contain_text("Check camera")
        assert_accessible(page)
        screenshot(page, "live-alarm")
        page.goto("/account")
        expect(page.locator(".alarm.critical")).to_be_visible()
        link = page.locator(".alarm").get_by_role("link", name="Open Live")
        link.focus()
        add(service, DARK, station="A")
        expect(line).to_contain_text("13 images")
        expect(link).to_be_focused()
        add(service, station="A")
        expect(page.locator(".alarm")).to_have_count(0)
