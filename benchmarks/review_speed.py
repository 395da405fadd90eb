"""Measure how fast a person can review inspections by keyboard: the wait from a key to the next card on the screen.

    python -m benchmarks.review_speed
    python -m benchmarks.review_speed --reviews 100 --pause 0.3 --rounds 3

Starts a service with a small bundle and inspects images of 1280 x 960 pixels, all with the decision `review`. Then a
real Chromium opens the review page, and a script presses keys as a practised hand does: for most parts G, otherwise a
number for a known kind of defect, D with a typed kind, U, S, or Z after a mistake. Between the appearance of a card and
the next key it pauses. The wait is measured in the page: from the event of the key to the first frame with the complete
next card, image and heatmap. At the end, the stored reviews are compared with the keys. Prints JSON; exits with code 1
if the 95th percentile of the wait is above 150 ms, if a hundred reviews take two minutes or more, or if a review is
missing.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import httpx
import numpy as np
import typer
from playwright.sync_api import Page, sync_playwright

from tests.browser import ARGUMENTS, REMEDY, TABLET, find_chromium
from tests.bundles import write_tiny_bundle
from tests.serving import service_process

PRODUCT = "widget"
WIDTH, HEIGHT = 1280, 960
MAX_WAIT_MS = 150.0
MAX_SECONDS_PER_HUNDRED = 120.0
# What the script does with every n-th card; good otherwise. The keys end with the one that shows the next card.
SPECIAL = ((7, ("d", *"scratch", "Enter")), (10, ("1",)), (13, ("u",)))
UNDO_EVERY = 17
WATCH = """() => {
  window.waits = [];
  window.pressed = null;
  const page = document.querySelector("plumbline-review");
  addEventListener("keydown", (event) => { window.pressed = event.timeStamp; }, true);
  new MutationObserver(() => {
    if (page.dataset.shown && window.pressed !== null) {
      const start = window.pressed;
      window.pressed = null;
      requestAnimationFrame((frame) => setTimeout(() => window.waits.push(performance.now() - start)));
    }
  }).observe(page, {attributes: true, attributeFilter: ["data-shown"]});
}"""


@dataclass(frozen=True)
class Round:
    """One round of reviews.

    Attributes:
        reviews: Number of reviews, those that were undone included.
        seconds: From the first card to the last key.
        waits_ms: From a key to the next card.
        missing: Inspections whose stored label differs from the keys.
    """

    reviews: int
    seconds: float
    waits_ms: list[float]
    missing: int


def make_image(number: int) -> bytes:
    """Return a JPEG of a textured part with a bright spot."""
    rng = np.random.default_rng(number)
    texture = cv2.GaussianBlur(rng.integers(60, 196, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 1.2)
    x, y = rng.integers(100, 700, 2)
    cv2.circle(texture, (int(x), int(y)), 120, (235, 235, 235), -1)
    return cv2.imencode(".jpg", texture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def fill(client: httpx.Client, count: int) -> list[str]:
    """Make inspections with the decision review; return their ids."""
    recipe = {"author": "benchmark", "reason": "review", "fail_threshold": 10, "review_threshold": 0.0001}
    client.put(f"/v1/products/{PRODUCT}/recipe", json=recipe).raise_for_status()
    found = []
    for number in range(count):
        response = client.post(
            f"/v1/products/{PRODUCT}/inspections",
            content=make_image(number),
            params={"part_id": f"P{number}", "station": "camera 1"},
            headers={"content-type": "image/jpeg"},
        )
        response.raise_for_status()
        if response.json()["decision"] != "review":
            raise RuntimeError(f"expected the decision review, got {response.json()['decision']}")
        found.append(str(response.json()["id"]))
    return found


def review(page: Page, client: httpx.Client, count: int, pause_s: float) -> Round:
    """Review `count` inspections by keyboard."""
    page.goto(f"/review?product={PRODUCT}")
    page.wait_for_selector("plumbline-review[data-shown]")
    page.evaluate(WATCH)
    expected: dict[str, str] = {}
    started = time.perf_counter()
    for number in range(1, count + 1):
        shown = str(page.locator("plumbline-review").get_attribute("data-shown"))
        time.sleep(pause_s)
        keys = next((keys for every, keys in SPECIAL if number % every == 0), ("g",))
        press(page, *keys)
        expected[shown] = {"g": "good", "u": "unsure"}.get(keys[0], "defect")
        if number % UNDO_EVERY == 0:
            time.sleep(pause_s)
            press(page, "z")
            time.sleep(pause_s)
            press(page, "u")
            expected[shown] = "unsure"
    seconds = time.perf_counter() - started
    page.wait_for_function("() => Object.values(sessionStorage).every((value) => value === '[]')")
    waits: list[float] = page.evaluate("window.waits")
    missing = sum(client.get(f"/v1/inspections/{name}").json()["label"] != label for name, label in expected.items())
    return Round(count, seconds, waits, missing)


def press(page: Page, *keys: str) -> None:
    """Press keys and wait until the next card is on the screen."""
    before = page.evaluate("window.waits.length")
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function("before => window.waits.length > before", arg=before)


def summarise(rounds: list[Round]) -> dict[str, Any]:
    """Return the figures of all rounds and whether they meet the limits."""
    waits = sorted(wait for one in rounds for wait in one.waits_ms)
    per_hundred = max(one.seconds / one.reviews * 100 for one in rounds)
    figures = {
        "steps": len(waits),
        "wait_ms": {
            "median": statistics.median(waits),
            "p95": waits[min(len(waits) - 1, int(0.95 * len(waits)))],
            "largest": waits[-1],
        },
        "seconds_per_hundred": per_hundred,
        "missing": sum(one.missing for one in rounds),
    }
    is_met = (
        figures["wait_ms"]["p95"] <= MAX_WAIT_MS  # type: ignore[index]
        and per_hundred < MAX_SECONDS_PER_HUNDRED
        and figures["missing"] == 0
    )
    return {**figures, "met": is_met, "rounds": [{**asdict(one), "waits_ms": len(one.waits_ms)} for one in rounds]}


def main(
    reviews: Annotated[int, typer.Option(min=1, help="Reviews per round.")] = 100,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between a card and the next key.")] = 0.3,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with inspections of its own.")] = 1,
) -> None:
    """Measure reviews by keyboard."""
    program = find_chromium()
    if program is None:
        raise typer.BadParameter(REMEDY)
    found = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        write_tiny_bundle(Path(folder) / "models", PRODUCT)
        with service_process(Path(folder) / "models", Path(folder) / "data", {"provider": "cpu"}) as service:
            service.wait_until(200)
            browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
            with httpx.Client(base_url=service.url, timeout=60) as client:
                for _ in range(rounds):
                    fill(client, reviews + 5)
                    size = {"width": TABLET[0], "height": TABLET[1]}
                    context = browser.new_context(base_url=service.url, viewport=size, reduced_motion="reduce")  # type: ignore[arg-type]
                    found.append(review(context.new_page(), client, reviews, pause))
                    context.close()
            browser.close()
    summary = summarise(found)
    typer.echo(json.dumps(summary, indent=2))
    if not summary["met"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
