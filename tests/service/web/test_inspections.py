"""The pages of inspections in a browser: search by every field, pages by links, detail, review and replay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import update

from service.languages import Texts
from service.store.models import InspectionRow
from service.store.session import transaction
from service.web.inspection_search import SearchForm, read_inspection_search
from service.web.page import CATALOGUES
from service.web.score_scale import WIDTH, describe_p_value, score_scale
from tests.access import PASSWORD, make_account
from tests.browser import PHONE, Open, assert_accessible, assert_fits, log_in, screenshot, watched
from tests.bundles import part
from tests.running_service import BAD, GOOD, RunningService, Serve, encode, run_service
from tests.service.api.test_shadow import wait_for

pytestmark = pytest.mark.slow
BERLIN = ZoneInfo("Europe/Berlin")
DARK = encode(part() * 0)


@pytest.fixture(scope="module")
def service(tiny_models: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with run_service(tiny_models, tmp_path_factory.mktemp("data"), time_zone="Europe/Berlin") as running:  # type: ignore[arg-type]
        yield running


@pytest.fixture(scope="module")
def ids(service: RunningService) -> dict[str, str]:
    """Ids of inspections by what is special about them."""
    recipe = {"author": "a", "reason": "test", "quality": {"min_brightness": 40}}
    assert service.client.put("/v1/products/widget/recipe", json=recipe).is_success
    found = {
        "plain": service.inspect(GOOD).json()["id"],
        "bad": service.inspect(BAD, params={"part_id": "P-1", "lot": "L-1", "station": "S-1"}).json()["id"],
        "dark": service.inspect(DARK, params={"station": "S-2"}).json()["id"],
        "good": service.inspect(GOOD, params={"part_id": "P-2", "lot": "L-1", "station": "S-1"}).json()["id"],
    }
    review = {"label": "defect", "kind": "scratch", "reviewer": "bea"}
    assert service.client.post(f"/v1/inspections/{found['bad']}:review", json=review).status_code == 201
    return found


def rows(page: Page) -> list[str]:
    """Return the ids of the results, in their order."""
    links = page.locator(".results a.target")
    return [str(links.nth(number).get_attribute("href")).rsplit("/")[-1] for number in range(links.count())]


def search(page: Page, **fields: str) -> None:
    """Fill in the form and send it."""
    page.goto("/inspections")
    for name, value in fields.items():
        field = page.get_by_role("search").locator(f"[name={name}]")
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(label=value)
        else:
            field.fill(value)
    page.get_by_role("button", name="Search").click()
    page.wait_for_url(re.compile(r"/inspections(\?.*)?$"))


def test_every_field_of_the_search_finds_what_it_states(
    service: RunningService, open_page: Open, ids: dict[str, str]
) -> None:
    page = open_page(service.client.base_url, "/inspections")
    assert rows(page) == [ids[name] for name in ("good", "dark", "bad", "plain")]
    now = datetime.now(BERLIN).replace(tzinfo=None)
    past, future = ((now + timedelta(days=days)).isoformat(timespec="minutes") for days in (-1, 1))
    score = service.client.get(f"/v1/inspections/{ids['bad']}").json()["score"]
    found: list[tuple[dict[str, str], list[str]]] = [
        ({"part_id": "P-1"}, ["bad"]),
        ({"lot": "L-1"}, ["good", "bad"]),
        ({"station": "S-2"}, ["dark"]),
        ({"product": "widget", "decision": "Fail"}, ["bad"]),
        ({"decision": "Review or fail"}, ["bad"]),
        ({"decision": "Invalid"}, ["dark"]),
        ({"label": "Defect"}, ["bad"]),
        ({"min_score": str(score)}, ["bad"]),
        ({"max_score": str(score / 2)}, ["good", "plain"]),
        ({"since": past, "until": future, "lot": "L-1", "decision": "Pass"}, ["good"]),
        ({"since": future}, []),
    ]
    for fields, expected in found:
        search(page, **fields)
        assert rows(page) == [ids[name] for name in expected], fields
        assert len(parse_qs(urlsplit(page.url).query)) == len(fields), "empty fields are not in the URL"
    expect(page.get_by_text("No inspection meets these conditions.")).to_be_visible()
    search(page, lot="L-1")
    expect(page.locator("#counts")).to_contain_text(re.compile(r"Inspected\s*2\s*Pass\s*1\s*Review\s*0\s*Fail\s*1"))
    assert page.locator(".thumbnail img").count() == 2
    export = page.get_by_role("link", name="CSV").get_attribute("href")
    exported = service.client.get(str(export)).text.splitlines()
    assert (len(exported), ids["bad"] in exported[2]) == (3, True)
    assert_accessible(page)
    assert_fits(page)
    page.goto("/inspections")
    for image in page.locator(".thumbnail img").all():
        image.scroll_into_view_if_needed()
        image.evaluate("image => image.decode()")
    screenshot(page, "inspections")


def test_thumbnail_that_a_busy_service_refuses_is_requested_again(
    service: RunningService, open_page: Open, ids: dict[str, str]
) -> None:
    page = open_page(service.client.base_url, "/inspections?part_id=P-1")
    refused: list[str] = []

    def refuse_twice(route: Route) -> None:
        if len(refused) < 2:
            refused.append(route.request.url)
            route.fulfill(status=503, headers={"Retry-After": "1"}, content_type="application/problem+json", body="{}")
        else:
            route.continue_()

    page.route("**/preview?*", refuse_twice)
    page.reload()
    image = page.locator(".thumbnail img")
    wait_for(lambda: image.evaluate("image => image.complete && image.naturalWidth > 0"))
    assert len(refused) == 2


def test_wrong_field_is_explained_beside_it(service: RunningService, open_page: Open, ids: dict[str, str]) -> None:
    page = open_page(service.client.base_url, "/inspections")
    watched(page).allow("422")
    search(page, min_score="much")
    problem = page.get_by_label("Smallest score")
    expect(problem).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#problem-min_score")).to_contain_text("is not a number")
    assert_accessible(page)
    search(page, min_score="2", max_score="1")
    expect(page.get_by_role("alert")).to_contain_text("min_score must not be greater than max_score")


def test_pages_are_links_in_both_directions(
    service: RunningService, open_page: Open, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.web.routes.inspections.PAGE", 1)
    page = open_page(service.client.base_url, "/inspections?lot=L-1")
    assert rows(page) == [ids["good"]]
    expect(page.get_by_role("link", name="Newer")).to_have_count(0)
    page.get_by_role("link", name="Older").click()
    expect(page.locator(".results a.target")).to_have_attribute("href", f"/inspections/{ids['bad']}")
    expect(page.get_by_role("link", name="Older")).to_have_count(0)
    page.goto(page.url)  # the URL can be shared
    page.get_by_role("link", name="Newer").click()
    expect(page.locator(".results a.target")).to_have_attribute("href", f"/inspections/{ids['good']}")
    assert "lot=L-1" in page.url


def test_detail_shows_what_the_decision_is_based_on(
    service: RunningService, open_page: Open, ids: dict[str, str]
) -> None:
    page = open_page(service.client.base_url, f"/inspections/{ids['bad']}")
    expect(page.locator("plumbline-viewer")).to_have_attribute("data-state", "ready")
    stored = service.client.get(f"/v1/inspections/{ids['bad']}").json()
    content = page.locator("main").inner_text()
    for value in (
        stored["bundle"]["digest"], stored["image"]["sha256"], stored["request_id"], stored["id"], "P-1", "L-1", "S-1",
        stored["provider"], "image/png", "decode", "Brightness", "good calibration images has a score as large",
    ):  # fmt: skip
        assert value in content, value
    assert page.locator("#regions-title + div tbody tr").count() == len(stored["regions"])
    expect(page.locator(".headline .decision")).to_have_text("Fail")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the image").click()
    assert download.value.path().read_bytes() == BAD
    for name in ("map", "heatmap"):
        link = page.get_by_role("link", name=f"Download the {name}").get_attribute("href")
        assert service.client.get(str(link)).status_code == 200
    assert_accessible(page)
    page.evaluate("window.scrollTo(0, 0)")
    screenshot(page, "inspection")
    page.get_by_role("link", name="Newer").click()
    page.wait_for_url(f"**/{ids['dark']}")
    expect(page.locator(".reason")).to_contain_text("under-exposed")
    page.get_by_role("link", name="Older").click()
    page.wait_for_url(f"**/{ids['bad']}")


def test_inspection_is_replayed_and_reviewed(service: RunningService, open_page: Open, ids: dict[str, str]) -> None:
    page = open_page(service.client.base_url, f"/inspections/{ids['good']}")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator(".replay-result .outcome")).to_have_text("Same result: decision and score agree.")
    expect(page.locator(".replay-result .replayed")).to_contain_text("Pass")
    assert page.get_by_label("Kind of defect").is_hidden()
    page.get_by_label("Defect", exact=True).check()
    page.get_by_label("Kind of defect").fill("dent")
    page.get_by_label("Note").fill("small")
    page.get_by_role("button", name="Store the review").click()
    reviews = page.locator("#reviews")
    expect(reviews).to_contain_text("dent")
    expect(reviews).to_contain_text("small")
    page.get_by_label("Good", exact=True).check()
    page.get_by_role("button", name="Store the review").click()
    expect(reviews.locator("li.replaced")).to_contain_text("Defect")
    reviews.get_by_role("button", name="Withdraw my review").click()
    expect(reviews.locator("li.withdrawn")).to_contain_text("Good")
    assert_accessible(page)


def test_removed_image_is_stated(service: RunningService, open_page: Open, ids: dict[str, str]) -> None:
    gone = service.inspect(GOOD, params={"lot": "old"}).json()["id"]
    removed = {"artefacts_removed_at": datetime(2026, 3, 1, 12, tzinfo=UTC)}
    with transaction(service.store.engine, "test") as connection:
        connection.execute(update(InspectionRow).where(InspectionRow.id == gone).values(removed))
    page = open_page(service.client.base_url, f"/inspections/{gone}")
    expect(page.get_by_text("were removed on 1 Mar 2026, 13:00:00")).to_be_visible()
    assert page.locator("plumbline-viewer").count() == 0
    assert page.get_by_role("button", name="Replay").count() == 0
    page.goto("/inspections?lot=old")
    expect(page.locator(".thumbnail")).to_have_text("removed")


@pytest.mark.parametrize("theme", ["dark", "contrast"])
def test_pages_on_a_phone_in_german(service: RunningService, open_page: Open, ids: dict[str, str], theme: str) -> None:
    page = open_page(service.client.base_url, "/inspections?lot=L-1", size=PHONE, language="de-DE", theme=theme)
    expect(page.locator("#counts")).to_contain_text("Gut")
    assert_fits(page)
    width = PHONE[0]
    visible = [
        page.locator(".results .decision").first,
        *page.get_by_role("navigation", name="Seiten").get_by_role("link").all(),
    ]
    for element in visible:
        box = element.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width, "visible without scrolling"
    assert_accessible(page)
    screenshot(page, f"inspections-phone-{theme}")
    page.goto(f"/inspections/{ids['bad']}")
    expect(page.locator("plumbline-viewer")).to_have_attribute("data-state", "ready")
    expect(page.locator(".headline .decision")).to_have_text("Schlecht")
    assert_fits(page)
    assert_accessible(page)
    screenshot(page, f"inspection-phone-{theme}")


def test_operator_sees_one_inspection_but_neither_search_nor_replay(serve: Serve, open_page: Open) -> None:
    with serve() as service:
        inspection = service.inspect(GOOD).json()["id"]
        make_account(service.store.engine, "olga", "operator")
        wait_for(lambda: service.client.get("/account", headers={"accept": "text/html"}).status_code == 303)
        page = open_page(service.client.base_url, f"/inspections/{inspection}")
        log_in(page, "olga", PASSWORD)
        expect(page.get_by_role("button", name="Store the review")).to_be_visible()
        assert page.get_by_role("button", name="Replay").count() == 0
        assert page.get_by_role("link", name="Inspections").count() == 0
        watched(page).allow("403")
        page.goto("/inspections")
        expect(page.get_by_role("alert")).to_contain_text("not for your account")


def test_local_times_have_the_zone_of_the_service() -> None:
    form = SearchForm(since="2026-10-25T02:30", until="2026-10-25T02:30")  # this time occurs twice
    found = read_inspection_search(form, BERLIN)
    assert found.query is not None
    assert found.query.since == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert found.query.until == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert found.url("/inspections") == "/inspections?since=2026-10-25T02%3A30&until=2026-10-25T02%3A30"
    shared = read_inspection_search(SearchForm(since="2026-03-01T12:00:00Z"), BERLIN)
    assert shared.values["since"] == "2026-03-01T13:00"
    assert read_inspection_search(SearchForm(since="yesterday"), BERLIN).errors.keys() == {"since"}


def test_scale_and_p_value_in_words() -> None:
    scale = score_scale(3.0, 1.5, 2.0, 1.0)
    assert scale.fail == pytest.approx(WIDTH / 1.5, abs=0.1)
    assert (scale.score, scale.is_beyond) == (WIDTH, True)
    assert score_scale(1.0, 1.0, 1.0, 1.0).fail == 0
    texts = Texts("en", BERLIN, CATALOGUES)
    assert describe_p_value(0.7, 100, texts).startswith("70% of good parts")
    assert describe_p_value(0.004, 1000, texts) == "About 1 in 250 good parts has a score at least as large."
    assert "None of the 99 good calibration images" in describe_p_value(0.01, 99, texts)


def test_scores_may_have_a_decimal_comma() -> None:
    found = read_inspection_search(SearchForm(min_score="5,5", max_score="6.25"), ZoneInfo("Europe/Berlin"))
    assert found.query is not None
    assert (found.query.min_score, found.query.max_score) == (5.5, 6.25)
    assert found.values == {"min_score": "5,5", "max_score": "6.25"}
