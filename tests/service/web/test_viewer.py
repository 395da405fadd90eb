"""The element <plumbline-viewer> in a browser: layers, zoom and pan in step, keys, editing of polygons, and its end."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import PHONE, Fingers, Open, assert_accessible, assert_fits, screenshot, watched
from tests.bundles import part
from tests.running_service import RunningService, encode
from tests.service.api.test_shadow import wait_for
from tests.service.web.viewers import HEIGHT, WIDTH, show, two

pytestmark = pytest.mark.slow


# Waits until the page has not moved for 20 frames.
END_OF_SCROLLING = """() => new Promise((done) => { let last = -1, frames = 0; const look = () => {
  frames = scrollY === last ? frames + 1 : 0; last = scrollY; frames > 20 ? done() : requestAnimationFrame(look);
}; look(); })"""


@pytest.fixture(scope="module")
def inspection(service: RunningService) -> dict[str, Any]:
    image = part(width=WIDTH, height=HEIGHT, spot=(200, 240, 60))
    found: dict[str, Any] = service.inspect(encode(image)).json()
    return found


def view(page: Page, name: str) -> dict[str, float]:
    found: dict[str, float] = page.evaluate("name => document.getElementById(name).view", name)
    return found


def opacity(page: Page, name: str) -> str:
    return str(page.locator(f"#{name} .stage img").nth(1).evaluate("image => image.style.opacity"))


def test_viewers_of_a_group_zoom_and_pan_in_step(
    service: RunningService, open_page: Open, inspection: dict[str, Any]
) -> None:
    page = open_page(service.client.base_url, "/account")
    two(service, page, inspection)
    first, second = (page.locator(f"#{name} .view") for name in ("first", "second"))
    first.hover(position={"x": 100, "y": 80})
    before = page.evaluate("document.getElementById('first').view")
    assert before == {"zoom": 1, "x": 0.5, "y": 0.5}
    page.mouse.wheel(0, -600)
    expect(page.locator("#second .bar > span")).not_to_have_text("100%")
    assert view(page, "first") == view(page, "second")
    assert view(page, "first")["x"] < 0.5, "zoomed where the pointer is"

    second.focus()
    page.keyboard.press("0")
    expect(page.locator("#first .bar > span")).to_have_text("100%")
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    moved = view(page, "first")
    assert (moved["zoom"], moved["x"] > 0.5) == (2.25, True)
    expect(page.locator("#second [role=status]")).to_have_text("Zoom 225%")

    box = first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 100, steps=4)
    page.mouse.up()
    assert view(page, "second")["x"] > moved["x"]

    first.dblclick(position={"x": 50, "y": 50})
    assert view(page, "second")["zoom"] == 1
    first.dblclick(position={"x": 50, "y": 50})
    assert view(page, "second")["zoom"] >= 4
    page.locator("#first").get_by_role("button", name="Whole image").click()
    assert view(page, "second") == {"zoom": 1, "x": 0.5, "y": 0.5}


def test_layers_regions_and_keys(service: RunningService, open_page: Open, inspection: dict[str, Any]) -> None:
    page = open_page(service.client.base_url, "/account")
    two(service, page, inspection)
    assert (opacity(page, "first"), opacity(page, "second")) == ("0.6", "0")
    page.locator("#first").get_by_role("slider", name="Heatmap").fill("30")
    assert opacity(page, "first") == "0.3"
    page.locator("main").click(position={"x": 2, "y": 2})
    page.keyboard.down("h")
    assert opacity(page, "first") == "0", "the heatmap is hidden while the key is held"
    page.keyboard.up("h")
    assert opacity(page, "first") == "0.3"
    page.locator("#second .view").focus()
    page.keyboard.down("h")
    assert opacity(page, "second") == "1", "or shown, if it is hidden otherwise"
    page.keyboard.up("h")
    assert opacity(page, "second") == "0"
    lines = page.locator("#first svg > g:first-child path")
    assert [lines.nth(number).get_attribute("class") for number in range(2)] == ["dark", "light"]
    x, y = inspection["regions"][0]["polygon"][0]
    assert str(lines.first.get_attribute("d")).startswith(f"M{x} {y}L")
    page.evaluate("document.getElementById('first').view = {zoom: 1000, x: 0.35, y: 0.55}")
    expect(page.locator("#first .stage")).to_have_class("stage sharp")
    screenshot(page, "viewer")
    assert_accessible(page)


def test_image_is_replaced_and_a_missing_one_is_stated(
    service: RunningService, open_page: Open, inspection: dict[str, Any]
) -> None:
    page = open_page(service.client.base_url, "/account", language="de")
    two(service, page, inspection)
    watched(page).allow("404")
    page.evaluate(
        """() => {
          const viewer = document.getElementById("first");
          viewer.view = {zoom: 3, x: 0.2, y: 0.2};
          viewer.setAttribute("overlay", "");
          viewer.setAttribute("src", "/v1/inspections/00000000-0000-7000-8000-000000000000/preview");
        }"""
    )
    assert page.locator("#first .stage img").count() == 0, "no image is shown with the facts of another one"
    expect(page.locator("#first")).to_have_attribute("data-state", "failed")
    expect(page.locator("#first .note")).to_have_text(
        "Das Bild kann nicht gezeigt werden. Vielleicht ist es nicht mehr gespeichert."
    )
    other = service.inspect().json()["id"]
    page.evaluate("id => document.getElementById('first').setAttribute('src', `/v1/inspections/${id}/preview`)", other)
    expect(page.locator("#first")).to_have_attribute("data-state", "ready")
    expect(page.locator("#first .note")).to_be_hidden()
    assert view(page, "first")["zoom"] == 1


def test_layers_that_a_busy_service_refuses_are_requested_again(
    service: RunningService, open_page: Open, inspection: dict[str, Any]
) -> None:
    page = open_page(service.client.base_url, "/account")
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if route.request.url in refused:
            route.continue_()
        else:
            refused.append(route.request.url)
            route.fulfill(status=503, headers={"Retry-After": "1"}, content_type="application/problem+json", body="{}")

    page.route("**/preview?*", refuse_once)
    two(service, page, inspection)
    assert len(refused) == 2, "the image and the heatmap, which both viewers share"
    for name in ("first", "second"):
        assert page.locator(f"#{name} .stage img").count() == 2


def test_removed_viewers_leave_nothing(service: RunningService, open_page: Open, inspection: dict[str, Any]) -> None:
    page = open_page(service.client.base_url, "/account")
    two(service, page, inspection)
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.enable")

    def counts() -> dict[str, int]:
        session.send("HeapProfiler.collectGarbage")
        found: dict[str, int] = session.send("Memory.getDOMCounters")
        return found

    replace = """async () => {
      const main = document.querySelector("main");
      for (let round = 0; round < 10; round++) {
        const html = main.innerHTML;
        main.innerHTML = "";
        main.innerHTML = html;
        await new Promise((done) => main.querySelector("#second").addEventListener("plumbline:ready", done));
      }
    }"""
    page.evaluate(replace)
    before = counts()
    page.evaluate(replace)

    # What was removed a moment ago may still be referred to by a frame or a request that is about to end.
    def has_shrunk() -> bool:
        after = counts()
        few = after["jsEventListeners"] <= before["jsEventListeners"] + 5
        return few and after["nodes"] <= before["nodes"] + 20

    wait_for(has_shrunk)


EDITOR = """
<h1>Editor</h1>
{% from "_viewer.html" import viewer with context %}
{{ viewer(id, width, height, blend=0, editable=true, id="editor", polygons=polygons) }}
"""


def edit(service: RunningService, page: Page, inspection: dict[str, Any], area: dict[str, Any] | None = None) -> None:
    show(service, page, EDITOR, id=inspection["id"], polygons=area)
    expect(page.locator("#editor")).to_have_attribute("data-state", "ready")
    expect(page.locator("#editor").get_by_role("button", name="Draw ignored area")).to_be_visible()
    page.evaluate(
        """() => {
          window.changes = [];
          document.addEventListener("plumbline:polygons", (event) => window.changes.push(event.detail));
        }"""
    )


def last_change(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("window.changes.at(-1)")
    return found


def test_polygon_is_drawn_and_edited_with_the_mouse(
    service: RunningService, open_page: Open, inspection: dict[str, Any]
) -> None:
    page = open_page(service.client.base_url, "/account")
    edit(service, page, inspection)
    editor = page.locator("#editor")
    editor.get_by_role("button", name="Draw ROI").click()
    box = editor.locator(".view").bounding_box()
    assert box is not None
    corners = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2)]
    scale = editor.locator(".stage").bounding_box()["width"] / WIDTH  # type: ignore[index]
    left, top = box["x"] + (box["width"] - WIDTH * scale) / 2, box["y"] + (box["height"] - HEIGHT * scale) / 2
    for x, y in corners:
        page.mouse.click(left + x * WIDTH * scale, top + y * HEIGHT * scale)
    change = last_change(page)
    assert change["valid"]
    assert change["polygons"]["ignore"] == []
    drawn = change["polygons"]["roi"]
    assert len(drawn) == 4
    assert drawn[0] == pytest.approx([128, 96], abs=3)
    assert change["area"] == {"roi": [drawn], "ignore": []}

    handle = editor.get_by_role("button", name="Point 1 of 4").bounding_box()
    assert handle is not None
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(handle["x"] + handle["width"] / 2 - 40 * scale, handle["y"] + handle["height"] / 2, steps=5)
    page.mouse.up()
    assert last_change(page)["polygons"]["roi"][0] == pytest.approx([88, 96], abs=3)
    between = editor.get_by_role("button", name="Add a point after point 1").bounding_box()
    assert between is not None
    page.mouse.move(between["x"] + between["width"] / 2, between["y"] + between["height"] / 2)
    page.mouse.down()
    page.mouse.move(between["x"] + between["width"] / 2, between["y"] + 450 * scale, steps=5)
    page.mouse.up()
    change = last_change(page)
    assert (len(change["polygons"]["roi"]), change["valid"]) == (5, False)
    expect(editor.locator(".editor [role=status]")).to_have_text("ROI: intersects itself. Use two areas instead.")
    screenshot(page, "viewer-editor")
    assert_accessible(page)
    editor.get_by_role("button", name="Undo").click()
    assert last_change(page)["polygons"]["roi"][0] == pytest.approx([88, 96], abs=3)
    assert last_change(page)["valid"]


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (0.7, 0.7)], ids=["horizontal", "vertical", "diagonal"])
def test_two_fingers_zoom_where_they_are_and_move_the_image(
    service: RunningService, open_page: Open, inspection: dict[str, Any], direction: tuple[float, float]
) -> None:
    page = open_page(service.client.base_url, "/account")
    two(service, page, inspection)
    box = page.locator("#first .view").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    fingers = Fingers(page)

    def spread(before: float, after: float, moved: float = 0) -> None:
        ends = [(-before, -after), (before, after)]
        fingers.move(*(
            ((x + direction[0] * start, y + direction[1] * start),
             (x + direction[0] * end + moved, y + direction[1] * end))
            for start, end in ends
        ))  # fmt: skip

    spread(20, 60)
    zoomed = view(page, "first")
    assert zoomed["zoom"] == pytest.approx(3, rel=0.15), "the distance of the fingers tripled"
    assert zoomed["x"] < 0.45, "the point below the fingers stays below them"
    assert view(page, "second") == zoomed, "viewers of a group zoom in step"
    assert page.evaluate("visualViewport.scale") == 1, "the page itself is not zoomed"
    spread(40, 40, moved=30)
    moved = view(page, "first")
    assert moved["zoom"] == pytest.approx(zoomed["zoom"], rel=0.05)
    assert moved["x"] < zoomed["x"], "the image follows the fingers to the right"
    spread(90, 10)
    assert view(page, "first")["zoom"] == pytest.approx(1, abs=0.05), "not smaller than the whole image"


def test_one_finger_scrolls_the_page_and_moves_a_zoomed_image(
    service: RunningService, open_page: Open, inspection: dict[str, Any]
) -> None:
    page = open_page(service.client.base_url, "/account", size=PHONE)
    two(service, page, inspection)
    page.evaluate("document.querySelector('main').style.minHeight = '3000px'")
    box = page.locator("#first .view").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    fingers = Fingers(page)
    fingers.move(((x, y), (x, y - 150)))
    page.wait_for_function("scrollY > 50")
    assert view(page, "first") == {"zoom": 1, "x": 0.5, "y": 0.5}
    page.evaluate(END_OF_SCROLLING)  # the page goes on moving for a moment
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function("scrollY === 0")
    fingers.move(((x - 20, y), (x - 60, y)), ((x + 20, y), (x + 60, y)))
    before = view(page, "first")
    assert before["zoom"] > 2
    fingers.move(((x, y), (x - 40, y - 40)))
    after = view(page, "first")
    assert (after["x"] > before["x"], after["y"] > before["y"]) == (True, True)
    page.evaluate(END_OF_SCROLLING)
    assert page.evaluate("scrollY") == 0, "the page stays"


def test_polygon_is_drawn_and_edited_by_keyboard(
    service: RunningService, open_page: Open, inspection: dict[str, Any]
) -> None:
    page = open_page(service.client.base_url, "/account")
    edit(service, page, inspection, {"roi": [], "ignore": [[[10, 10], [60, 10], [60, 60]]]})
    editor = page.locator("#editor")
    editor.get_by_role("button", name="Draw ignored area").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    area = last_change(page)["area"]
    assert [len(polygon) for polygon in area["ignore"]] == [3, 4]
    expect(editor.get_by_role("button", name="Point 1 of 4")).to_be_focused()
    x, y = area["ignore"][1][0]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert last_change(page)["area"]["ignore"][1][0] == [x + 1, y + 10]
    page.keyboard.press("+")
    expect(editor.get_by_role("button", name="Point 2 of 5")).to_be_focused()
    for expected in (4, 3, 2):
        page.keyboard.press("Delete")
        assert len(last_change(page)["area"]["ignore"][1]) == expected
    change = last_change(page)
    assert (change["valid"], change["problems"]) == (False, ["Ignored area 2: has fewer than three points."])
    page.keyboard.press("Control+z")
    assert last_change(page)["valid"]
    button = editor.get_by_role("button", name="Ignored area 1", exact=True)
    button.focus()
    page.keyboard.press("ArrowLeft")
    assert last_change(page)["area"]["ignore"][0] == [[9, 10], [59, 10], [59, 60]]
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    assert last_change(page)["area"]["ignore"][0][0] == [0, 10], "it stays in the image"
    editor.get_by_role("button", name="Delete area").focus()
    page.keyboard.press("Enter")
    assert len(last_change(page)["area"]["ignore"]) == 1
    editor.get_by_role("button", name="Draw ROI").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert last_change(page)["area"]["roi"] == []


def test_areas_of_another_image_size_are_stated(
    service: RunningService, open_page: Open, inspection: dict[str, Any]
) -> None:
    page = open_page(service.client.base_url, "/account", size=PHONE)
    area = {"roi": [[[0, 0], [700, 0], [700, 400]], [[1, 1], [9, 1], [9, 9]]], "ignore": []}
    edit(service, page, inspection, area)
    expect(page.locator("#editor .editor [role=status]")).to_have_text("ROI 1: extends beyond the image.")
    assert page.evaluate("document.getElementById('editor').area") == area, "no ROI polygon is lost"
    assert_fits(page)
    screenshot(page, "viewer-editor-phone")


def test_polygons_are_valid_by_the_rules_of_recipes(service: RunningService, open_page: Open) -> None:
    polygons: list[tuple[list[list[float]], list[str]]] = [
        ([[0, 0], [10, 0], [10, 10]], []),
        ([[0, 0], [10, 0]], ["few"]),
        ([[0, 0], [10, 10], [10, 0], [0, 10]], ["crossing"]),
        ([[0, 0], [10, 0], [10, 0], [0, 10]], ["repeated"]),
        ([[0, 0], [10, 0], [5, 0], [5, 10]], ["crossing"]),
        ([[0, 0], [1, 0], [0, 1]], ["small"]),
        ([[0, 0], [10, 0], [10, 10], [5, 0], [0, 10]], ["crossing"]),
        ([[0, 0], [101, 0], [10, 10]], ["outside"]),
    ]
    page = open_page(service.client.base_url, "/account")
    url = service.app.state.pages.assets.url("js/geometry.js")
    for points, expected in polygons:
        found = page.evaluate(
            "async ([url, points]) => (await import(url)).problemsOf(points, 100, 100)", [url, points]
        )
        assert found == expected, points
        recipe = {"author": "a", "reason": "b", "ignore": [points]}
        response = service.client.put("/v1/products/widget/recipe", json=recipe)
        if expected != ["outside"]:  # the service does not have the size of the images yet
            assert (response.status_code == 422) == bool(expected), (points, response.text)
    assert service.client.put(
        "/v1/products/widget/recipe", json={"author": "a", "reason": "b", "ignore": []}
    ).is_success
