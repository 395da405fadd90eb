"""The colours of the pages: light and dark by choice or as the device, also on a canvas."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from service.web.assets import STATIC
from tests.browser import Open
from tests.running_service import RunningService

pytestmark = pytest.mark.slow

PALETTE = (STATIC / "css/palette.css").read_text(encoding="utf-8")


def colours(name: str) -> dict[str, tuple[int, int, int]]:
    """Return the colour with a name in each theme."""
    (pair,), (contrast,) = (
        re.findall(rf"^  {name}: {value};$", PALETTE, re.MULTILINE)
        for value in (r"light-dark\((#\w{6}, #\w{6})\)", r"(#\w{6})")
    )
    light, dark = pair.split(", ")
    values = {"light": light, "dark": dark, "contrast": contrast}
    return {theme: tuple(bytes.fromhex(value[1:])) for theme, value in values.items()}  # type: ignore[misc]


def background(page: Page) -> str:
    shown: str = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return shown


def css(colour: tuple[int, int, int]) -> str:
    return f"rgb({', '.join(map(str, colour))})"


@pytest.mark.parametrize("theme", ["light", "dark", "contrast"])
@pytest.mark.parametrize("device", ["light", "dark"])
def test_chosen_colours_do_not_depend_on_the_device(
    product: RunningService, open_page: Open, theme: str, device: Literal["light", "dark"]
) -> None:
    page = open_page(product.client.base_url, "/account", theme=theme)
    page.emulate_media(color_scheme=device)
    assert background(page) == css(colours("--page")[theme])


def test_colours_follow_the_device_if_none_were_chosen(product: RunningService, open_page: Open) -> None:
    page = open_page(product.client.base_url, "/account")
    assert background(page) == css(colours("--page")["light"])
    page.emulate_media(color_scheme="dark")
    assert background(page) == css(colours("--page")["dark"])


@pytest.mark.parametrize("theme", ["light", "dark", "contrast"])
def test_charts_have_the_colours_of_the_theme(product: RunningService, open_page: Open, theme: str) -> None:
    page = open_page(product.client.base_url, "/products/widget", theme=theme)
    expect(page.locator("#distribution canvas")).to_be_visible()
    drawn: list[list[int]] = page.locator("#distribution canvas").evaluate(
        """(canvas) => {
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const found = new Set();
          for (let at = 0; at < data.length; at += 4) {
            if (data[at + 3] === 255) {
              found.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
            }
          }
          return [...found].map((one) => one.split(",").map(Number));
        }"""
    )
    assert list(colours("--series-1")[theme]) in drawn, "the line of the last hours"
    assert list(colours("--series-2")[theme]) in drawn, "the bars of the calibration images"
