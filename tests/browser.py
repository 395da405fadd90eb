"""A real browser for tests of pages: Debian's Chromium, driven by Playwright.

Every page that a test opens is watched: an error in a script, a violation of the Content-Security-Policy, a failed
request, and a request to another host fail the test.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

REMEDY = "Chromium is not installed: `make system-deps`, or install Debian's package chromium."
# Without them, Chromium looks up hosts on the internet, and in a container of root it does not start.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb",
]  # fmt: skip
TABLET, PHONE = (1280, 800), (360, 740)
SCREENSHOTS = "PLUMBLINE_SCREENSHOTS"
"""Environment variable with the folder for screenshots; without it they are not kept."""
# What a test expects is there within milliseconds; on a machine that does much else at the same time it takes seconds.
_PATIENCE_MS = 30_000
expect.set_options(timeout=_PATIENCE_MS)


class WatchedPage:
    """What went wrong on the pages of a browser context.

    Attributes:
        problems: One line each.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.problems: list[str] = []
        # A busy service refuses some of many previews, and pages request them again: on a slow machine it may happen.
        self._allowed = [re.compile(r"status of 503 .*/preview\?")]
        context.on("console", self._console)
        context.on("weberror", lambda error: self.problems.append(f"uncaught error: {error.error}"))
        context.on("request", self._request)

    def allow(self, pattern: str) -> None:
        """Expect problems that match a regular expression, such as the refused request of a test."""
        self._allowed.append(re.compile(pattern))

    @property
    def unexpected(self) -> list[str]:
        """The problems that no call of `allow` expects."""
        return [one for one in self.problems if not any(pattern.search(one) for pattern in self._allowed)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"console {message.type}: {message.text} {message.location.get('url', '')}")

    def _request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in {"data", "blob"} and url.hostname not in {"127.0.0.1", "localhost"}:
            self.problems.append(f"request to another host: {request.url}")


Open = Callable[..., Page]


def find_chromium() -> str | None:
    """Return the path of Chromium; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium.

    While it runs, Playwright keeps an event loop running in the main thread, in which `asyncio.run` fails. So it ends
    with the module: tests of other modules may use event loops.
    """
    program = find_chromium()
    if program is None:
        pytest.skip(REMEDY)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a page: `page = open_page(service.client.base_url, "/review", size=PHONE, language="de")`.

    Each call opens a browser context of its own, as another person would. `watched(page)` returns its problems.
    """
    contexts: list[tuple[BrowserContext, WatchedPage]] = []

    def start(
        base_url: object, path: str = "/", *, size: tuple[int, int] = TABLET, language: str = "en-GB", theme: str = ""
    ) -> Page:
        context = browser.new_context(
            base_url=str(base_url),
            viewport={"width": size[0], "height": size[1]},
            locale=language,
            color_scheme="light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(_PATIENCE_MS)
        watched = WatchedPage(context)
        contexts.append((context, watched))
        if theme:
            cookie = {"name": "plumbline-theme", "value": theme, "url": str(base_url)}
            context.add_cookies([cookie])  # type: ignore[list-item]
        page = context.new_page()
        _WATCHED[page] = watched
        page.goto(path)
        return page

    try:
        yield start
        for _, watched in contexts:
            assert not watched.unexpected, watched.unexpected
    finally:
        _WATCHED.clear()
        for context, _ in contexts:
            context.close()


_WATCHED: dict[Page, WatchedPage] = {}


def watched(page: Page) -> WatchedPage:
    """Return what went wrong on the pages of the context of a page that `open_page` opened."""
    return _WATCHED[page]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder until the end of the block; yield the base URL."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, directory=str(folder), **options)

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Fingers:
    """Fingers on the screen, as the browser receives them from a touch screen, gestures of the browser included.

    Args:
        page: The page.
    """

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})

    def move(self, *paths: tuple[tuple[float, float], tuple[float, float]], steps: int = 10) -> None:
        """Put fingers down, move each from a point to another one in a straight line, and lift them.

        Args:
            paths: Start and end of each finger, in pixels of the window.
            steps: Number of movements.
        """
        for step in range(steps + 1):
            points = [
                {"x": x1 + (x2 - x1) * step / steps, "y": y1 + (y2 - y1) * step / steps, "id": number}
                for number, ((x1, y1), (x2, y2)) in enumerate(paths)
            ]
            self._send("touchMove" if step else "touchStart", points)
        self._send("touchEnd", [])

    def _send(self, kind: str, points: list[dict[str, float]]) -> None:
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def log_in(page: Page, name: str, password: str) -> None:
    """Fill in the form to log in, and wait for the page that was requested."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/login" not in url)


def assert_accessible(page: Page) -> None:
    """Check a page with axe-core; fail with its violations."""
    expect(page.locator('[aria-busy="true"]')).to_have_count(0)  # what is being computed is paler meanwhile
    results = Axe().run(page, options={"resultTypes": ["violations"]})
    found = [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}"
        for violation in results.response["violations"]
        for node in violation["nodes"]
    ]
    assert not found, "\n".join(found)


def assert_fits(page: Page) -> None:
    """Check that a page is not wider than the window, so that no horizontal scrolling is needed."""
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"], f"{page.url} is {width} pixels wide"  # type: ignore[index]


def screenshot(page: Page, name: str) -> None:
    """Keep a screenshot in the folder of `PLUMBLINE_SCREENSHOTS`, if that is set."""
    folder = os.environ.get(SCREENSHOTS)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")
