"""The live page under load: does its memory stay flat, is it quick, and what does it cost the service?

Runs a service with a small bundle, sends images at a constant rate, first without a page and then with pages open in
Chromium, and again without. Reports the throughput and latency of the service in each part, the JavaScript heap of the
pages after forced garbage collections, the time from a stored verdict to its display, the size of the first load, and
requests to other hosts. Exits with 1 if a limit is exceeded. Chromium has the lowest priority, because in production it
runs on another machine.

    python -m benchmarks.live_pages --minutes 10 --rate 30 --pages 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from playwright.async_api import Browser, CDPSession, Page, async_playwright

from tests.browser import ARGUMENTS
from tests.bundles import part, write_tiny_bundle
from tests.running_service import INSPECT, encode
from tests.serving import service_process

MAX_SLOWER, MAX_SHOWN_MS, MAX_FIRST_LOAD, MAX_GROWTH = 0.05, 300, 150_000, 0.15
_MEASURE = """
() => {
  window.shownAt = [];
  const live = document.getElementById("live");
  new MutationObserver(() => window.shownAt.push([live.dataset.id, Date.now()]))
    .observe(live, {attributes: true, attributeFilter: ["data-id"]});
}
"""
_TAKE = "() => window.shownAt.splice(0)"


@dataclass
class Part:
    """What the service did in one part of the measurement.

    Attributes:
        latencies_ms: Time from request to response of each image.
        stored_at: When the response with the verdict arrived, by id, in milliseconds since 1970.
        late: Images that could not be sent in time because too many were in flight.
        seconds: Length of the part.
    """

    latencies_ms: list[float] = field(default_factory=list)
    stored_at: dict[str, float] = field(default_factory=dict)
    late: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, float]:
        """Return the figures."""
        ordered = sorted(self.latencies_ms)
        return {
            "per_s": round(len(ordered) / self.seconds, 2),
            "p50_ms": round(ordered[len(ordered) // 2], 1),
            "p95_ms": round(ordered[int(len(ordered) * 0.95)], 1),
            "late": self.late,
        }


class Load:
    """Sends images at a constant rate from a thread of its own, with few in flight."""

    def __init__(self, url: str, rate: float) -> None:
        self._url, self._rate = url, rate
        self.images = [encode(part(width=640, height=480, brightness=120 + number)) for number in range(16)]
        self.images[5] = encode(part(width=640, height=480, spot=(200, 200, 60)))

    def run(self, seconds: float) -> Part:
        """Send images for some seconds."""
        found, end = Part(), time.perf_counter() + seconds
        lock, started, count = threading.Lock(), time.perf_counter(), iter(range(10**9))

        def work() -> None:
            with httpx.Client(base_url=self._url, timeout=30) as client:
                while True:
                    with lock:
                        number = next(count)
                    due = started + number / self._rate
                    if due > end:
                        return
                    time.sleep(max(0.0, due - time.perf_counter()))
                    begin = time.perf_counter()
                    headers = {"content-type": "image/png"}
                    image = self.images[number % 16]
                    response = client.post(INSPECT, content=image, headers=headers, params={"part_id": str(number)})
                    ended, now_ms = time.perf_counter(), time.time() * 1000
                    response.raise_for_status()
                    with lock:
                        found.latencies_ms.append((ended - begin) * 1000)
                        found.stored_at[response.json()["id"]] = now_ms
                        found.late += begin - due > 0.5

        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found.seconds = time.perf_counter() - started
        return found


async def open_page(browser: Browser, url: str, sizes: list[int], foreign: list[str]) -> tuple[Page, CDPSession]:
    """Open the live page in a context of its own; note sizes of its files and requests to other hosts."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    session = await context.new_cdp_session(page)
    page.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
    is_file: set[str] = set()
    await session.send("Network.enable", {"maxTotalBufferSize": 2**20, "maxResourceBufferSize": 2**19})
    session.on(
        "Network.responseReceived",
        lambda event: (
            is_file.add(event["requestId"]) if event["type"] in {"Document", "Script", "Stylesheet"} else None
        ),
    )
    session.on(
        "Network.loadingFinished",
        lambda event: sizes.append(int(event["encodedDataLength"])) if event["requestId"] in is_file else None,
    )
    await page.goto(url)
    await page.wait_for_selector('#live[data-state="live"]')
    await page.evaluate(_MEASURE)
    return page, session


def write_program() -> Path:
    """Return a script that runs Chromium with the lowest priority."""
    script = Path(tempfile.mkdtemp()) / "chromium"
    script.write_text(f'#!/bin/sh\nexec nice -n 19 {shutil.which("chromium") or "chromium-browser"} "$@"\n')
    script.chmod(0o755)
    return script


def is_foreign(url: str) -> bool:
    """Return whether a request leaves this machine."""
    parts = urlsplit(url)
    return parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname != "127.0.0.1"


async def heap_bytes(session: CDPSession) -> int:
    """Return the JavaScript heap of a page after a garbage collection."""
    await session.send("HeapProfiler.collectGarbage")
    usage = await session.send("Runtime.getHeapUsage")
    return int(usage["usedSize"])


async def with_pages(url: str, load: Load, seconds: float, count: int) -> dict[str, object]:
    """Measure with pages open."""
    sizes: list[list[int]] = [[] for _ in range(count)]
    foreign: list[str] = []
    heaps: list[list[int]] = [[] for _ in range(count)]
    shown: list[list[tuple[str, float]]] = [[] for _ in range(count)]
    program = write_program()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        opened = [await open_page(browser, url, sizes[number], foreign) for number in range(count)]
        running = asyncio.get_running_loop().run_in_executor(None, load.run, seconds)
        step = max(5.0, seconds / 20)
        while not running.done():
            await asyncio.wait([running], timeout=step)
            for number, (page, session) in enumerate(opened):
                heaps[number].append(await heap_bytes(session))
                shown[number] += [(name, moment) for name, moment in await page.evaluate(_TAKE)]
        found = await running
        nodes = [await page.evaluate("document.querySelectorAll('*').length") for page, _ in opened]
        await browser.close()
    delays = sorted(moment - found.stored_at[name] for one in shown for name, moment in one if name in found.stored_at)
    # The first samples contain what is loaded once.
    growth = [statistics.mean(heap[-3:]) / statistics.mean(heap[1:4]) - 1 for heap in heaps if len(heap) >= 7]
    return {
        "service": found.summary(),
        "shown": len(delays),
        "stored_to_shown_ms": {
            "p50": round(delays[len(delays) // 2]),
            "p95": round(delays[int(len(delays) * 0.95)]),
            "max": round(delays[-1]),
        },
        "heap_mib": [[round(size / 2**20, 2) for size in heap] for heap in heaps],
        "heap_growth": [round(one, 3) for one in growth],
        "elements": nodes,
        "first_load_bytes": [sum(one) for one in sizes],
        "foreign_requests": foreign,
    }


def measure(minutes: float, rate: float, pages: int) -> dict[str, object]:
    """Run the whole measurement."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_tiny_bundle(models)
        with service_process(models, Path(folder) / "data", {"provider": "cpu"}) as service:
            service.wait_until(200)
            load = Load(service.url, rate)
            load.run(5)
            alone = max(15.0, minutes * 60 / 4)
            before = load.run(alone).summary()
            found = asyncio.run(with_pages(service.url, load, minutes * 60, pages))
            after = load.run(alone).summary()
            return {"rate": rate, "pages": pages, "minutes": minutes, "before": before, **found, "after": after}


def failures(found: dict[str, object]) -> list[str]:
    """Return the limits that are exceeded."""
    problems = []
    before, during, after = found["before"], found["service"], found["after"]
    assert isinstance(before, dict)
    assert isinstance(during, dict)
    assert isinstance(after, dict)
    alone = statistics.mean([before["per_s"], after["per_s"]])
    if during["per_s"] < alone * (1 - MAX_SLOWER):
        problems.append(f"throughput falls from {alone:.1f} to {during['per_s']:.1f} per second")
    delays, growth, sizes = found["stored_to_shown_ms"], found["heap_growth"], found["first_load_bytes"]
    assert isinstance(delays, dict)
    assert isinstance(growth, list)
    assert isinstance(sizes, list)
    if delays["p95"] > MAX_SHOWN_MS:
        problems.append(f"p95 from stored to shown is {delays['p95']} ms")
    if growth and max(growth) > MAX_GROWTH:
        problems.append(f"a heap grew by {max(growth):.0%}")
    if max(sizes) > MAX_FIRST_LOAD:
        problems.append(f"the first load has {max(sizes)} bytes")
    if found["foreign_requests"]:
        problems.append("requests to other hosts")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=30, help="images per second")
    parser.add_argument("--pages", type=int, default=3)
    options = parser.parse_args(arguments)
    found = measure(options.minutes, options.rate, options.pages)
    problems = failures(found)
    sys.stdout.write(json.dumps({**found, "problems": problems}, indent=2) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
