"""The scale of scores: the same places on every page, whether the service or a script draws it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from service.inspection.heatmap import FULL_SCALE
from service.web.score_scale import WIDTH, score_scale
from tests.browser import Open
from tests.running_service import RunningService

pytestmark = pytest.mark.slow

CASES = [
    # score, review, fail, start of the scale
    (0.5, 0.4, 1.0, 0.1),
    (0.05, 0.4, 1.0, 0.1),
    (9.0, 0.4, 1.0, 0.1),
    (1.2, 0.2, 1.0, 0.5),
    (-1.0, -2.0, -0.5, -1.5),
    (1.0, 1.0, 1.0, 1.0),
    (0.3, 0.0, 1e-9, 0.0),
]


def test_fail_threshold_is_where_the_colours_of_the_heatmap_change() -> None:
    for score, review, fail, low in CASES[:5]:
        assert score_scale(score, review, fail, low).fail == pytest.approx(WIDTH / FULL_SCALE, abs=0.1)


@pytest.mark.parametrize("path", ["/", "/review?product=widget"])
def test_script_and_service_have_the_same_places(product: RunningService, open_page: Open, path: str) -> None:
    page = open_page(product.client.base_url, path)
    page.locator("[data-fail-place]").wait_for(state="attached")
    script = product.app.state.pages.assets.url("js/score-scale.js")
    for score, review, fail, low in CASES:
        inspection = {"score": score, "thresholds": {"review": review, "fail": fail}, "heatmap_scale": {"low": low}}
        places: dict[str, float] = page.evaluate(
            "async ([script, inspection]) => (await import(script)).placesOf(inspection)", [script, inspection]
        )
        scale = score_scale(score, review, fail, low)
        assert {name: round(WIDTH * place, 1) for name, place in places.items()} == {
            "review": scale.review, "fail": scale.fail, "score": scale.score,
        }  # fmt: skip


def test_all_pages_show_the_fail_threshold_at_the_same_place(product: RunningService, open_page: Open) -> None:
    newest: dict[str, Any] = product.client.get("/v1/inspections", params={"limit": 1}).json()["items"][0]
    shares = []
    page = open_page(product.client.base_url, "/")
    expect(page.locator("#gauge")).to_be_visible()
    shares.append((float(page.locator("#gauge line.fail").get_attribute("x1") or "nan") - 10) / 300)
    page.goto(f"/inspections/{newest['id']}")
    shares.append(float(page.locator("figure.score rect.zone").nth(2).get_attribute("x") or "nan") / WIDTH)
    page.goto("/review?product=widget")
    expect(page.locator("[data-part=score]")).not_to_be_empty()
    shares.append(float(page.locator("[data-part=zone-fail]").get_attribute("x") or "nan") / 300)
    assert shares == pytest.approx([1 / FULL_SCALE] * 3, abs=1e-3)
