"""Take the screenshots of README and docs: the pages of the service with the shipped demo product (`make page-images`).

    python -m benchmarks.page_images --models models --samples docs/samples --out docs/images/pages

Starts a service, inspects the samples as a line would, and opens each page in Chromium.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from playwright.sync_api import sync_playwright

from plumbline_client import Client
from tests.browser import ARGUMENTS, PHONE, TABLET, find_chromium
from tests.serving import service_process

GOOD_ROUNDS = 6
"""How often all good samples are inspected between two defective ones."""
LAST = "scratch"
"""The sample that the live page shows."""
QUALITY = 82


def main(
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    product: Annotated[str, typer.Option(help="Product to show.")] = "washer",
    samples: Annotated[Path, typer.Option(help="Folder of the sample images.")] = Path("docs/samples"),
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("docs/images/pages"),
) -> None:
    """Write one WebP image per page."""
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        service_process(models, Path(data), {"provider": "cpu", "time_zone": "Europe/Berlin"}) as service,
    ):
        service.wait_until(200)
        ids = _inspect(service.url, product, samples)
        pages = {
            "live": ("/live", TABLET, "auto"),
            "live-phone": ("/live", PHONE, "dark"),
            "review": (f"/review?product={product}", TABLET, "auto"),
            "product": (f"/products/{product}", TABLET, "auto"),
            "recipe": (f"/products/{product}/recipe", TABLET, "auto"),
            "inspections": ("/inspections", TABLET, "auto"),
            "inspection": (f"/inspections/{ids[LAST]}", TABLET, "auto"),
            "system": ("/system", TABLET, "auto"),
        }
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
            for name, (path, size, theme) in pages.items():
                context = browser.new_context(
                    base_url=service.url,
                    viewport={"width": size[0], "height": size[1]},
                    device_scale_factor=1.5,
                    locale="en-GB",
                    color_scheme="dark" if theme == "dark" else "light",
                    reduced_motion="reduce",
                )
                page = context.new_page()
                page.goto(path)
                page.wait_for_load_state("load")
                page.wait_for_timeout(6000)  # images of a page that is updated all the time have no end
                _save(page.screenshot(), out / f"{name}.webp")
                context.close()
            browser.close()
    typer.echo(f"{len(pages)} images in {out}")


def _inspect(url: str, product: str, samples: Path) -> dict[str, str]:
    """Inspect good samples, with one defective sample now and then; return the newest inspection of each sample."""
    good = sorted(samples.glob("good-*.jpg"))
    bad = [path for path in sorted(samples.glob("*.jpg")) if path not in good and path.stem != LAST]
    shown = [*bad, samples / f"{LAST}.jpg"]
    order = [path for one in shown for path in [*([*good] * GOOD_ROUNDS)[:-1], one]]
    ids: dict[str, str] = {}
    with Client(url, timeout_s=60) as client:
        for number, path in enumerate(order):
            found = client.inspect(
                product,
                path.read_bytes(),
                part_id=f"W-{1000 + number}",
                station=f"line-{1 + number % 2}",
                lot=f"L{260 + number // 30}",
            )
            ids[path.stem] = found.id
    return ids


def _save(png: bytes, path: Path) -> None:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    _, data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    path.write_bytes(data.tobytes())


if __name__ == "__main__":
    typer.run(main)
