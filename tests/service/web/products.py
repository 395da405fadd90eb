"""A product with inspections of several scores, for tests of the engineer's pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.bundles import part, tiny_quality, write_tiny_bundle
from tests.running_service import BAD, GOOD, RunningService, encode
from tests.service.api.test_recipe_previews import review

RECIPE = "/v1/products/widget/recipe"
FAINT = [encode(part(brightness=128 + step)) for step in range(1, 20)]


def write_product(models: Path) -> None:
    """Write a bundle whose quality check has limits."""
    write_tiny_bundle(models, quality=tiny_quality(brightness=(100, 200)))


def inspect_parts(service: RunningService) -> None:
    """Inspect 21 parts, of which 6 fail, and label two of them."""
    images = enumerate([*FAINT, GOOD, BAD])
    found = [service.inspect(image, params={"part_id": f"P-{number}"}).json() for number, image in images]
    review(service, found[10], "good")
    review(service, found[20], "defect", kind="scratch")


def recipe(service: RunningService) -> dict[str, Any]:
    """Return the recipe in force."""
    found: dict[str, Any] = service.client.get(RECIPE).json()
    return found


def apply(page: Page, reason: str) -> None:
    """Apply what was entered."""
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Apply", exact=True).click()


def expect_message(page: Page, text: str) -> None:
    """Wait for a message at the bottom of the page."""
    expect(page.locator("#messages").filter(has_text=text)).to_be_visible()
