"""Measure time per tile and memory for large images that are inspected in tiles, over HTTP.

    python -m benchmarks.tiling --product washer

Writes a copy of the product's bundle with tiling (its thresholds are meaningless then, but the computation per tile is
the same), starts a service process and posts images of different sizes in rotation. Prints a Markdown table.
"""

from __future__ import annotations

import http.client
import json
import re
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import psutil
import typer

from benchmarks.derived_bundle import with_input
from service.bundle.bundle import Bundle, newest_bundle
from service.bundle.manifest import MANIFEST, Tiling
from service.inspection.tiling import plan_tiles
from tests.serving import ServiceProcess, service_process

SIZES_WH = ((256, 256), (480, 480), (928, 928), (1824, 1824), (2720, 2720), (4096, 3000), (5600, 5600))


def textured_jpeg(width: int, height: int) -> bytes:
    """Return a synthetic image with detail at all scales, as JPEG."""
    generator = np.random.default_rng(0)
    image = np.full((height, width, 3), 128, np.float32)
    for cell in (256, 64, 16, 4):
        noise = generator.standard_normal((height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR) * 8
    return cv2.imencode(".jpg", image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def processor_s(service: ServiceProcess) -> float:
    """Return the processor time of the process in seconds; it excludes the time spent waiting for a core."""
    times = psutil.Process(service.process.pid).cpu_times()
    return float(times.user + times.system)


def peak_mib(service: ServiceProcess) -> int:
    """Return the peak resident memory of the process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def main(
    product: Annotated[str, typer.Option(help="Product with the bundle to use.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    overlap: Annotated[int, typer.Option(help="Overlap of adjacent tiles in pixels.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Number of requests per size.")] = 5,
) -> None:
    """Measure the minimum time over all rounds for every size, which excludes the effect of other load."""
    path = newest_bundle((models / product).absolute())
    if path is None:
        raise typer.BadParameter(f"{models / product} holds no bundle with a {MANIFEST}")
    with tempfile.TemporaryDirectory() as folder:
        tiled = Path(folder) / "models"
        bundle = with_input(Bundle.load(path), tiled, is_checked=False, tiling=Tiling(overlap=overlap))
        images = {size: textured_jpeg(*size) for size in SIZES_WH}
        tiles = {size: len(plan_tiles(size[::-1], bundle.manifest.input)) for size in SIZES_WH}
        seconds: dict[tuple[int, int], float] = {}
        processor: dict[tuple[int, int], float] = {}
        peaks: dict[tuple[int, int], int] = {}
        settings = {"provider": "cpu", "queue_deadline_s": "600"}
        with service_process(Path(folder) / "models", Path(folder) / "data", settings) as service:
            service.wait_until(200)
            with closing(http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=600)) as client:
                for _ in range(rounds):
                    for size, image in images.items():
                        started, used = time.perf_counter(), processor_s(service)
                        client.request(
                            "POST", f"/v1/products/{product}/inspections", image, {"content-type": "image/jpeg"}
                        )
                        response = client.getresponse()
                        body = json.loads(response.read())
                        elapsed, work = time.perf_counter() - started, processor_s(service) - used
                        if response.status != 201:
                            raise RuntimeError(f"{response.status}: {body}")
                        if body["decision"] == "invalid":
                            raise RuntimeError(f"an image was rejected: {body['invalid_reasons']}")
                        seconds[size] = min(elapsed, seconds.get(size, elapsed))
                        processor[size] = min(work, processor.get(size, work))
                        peaks.setdefault(size, peak_mib(service))
    unit = SIZES_WH[2]
    lines = ["| image | tiles | time per tile, relative | processor time per tile, relative | peak memory so far |"]
    lines.append("|---|---|---|---|---|")
    for size in SIZES_WH:
        wall, work = (values[size] / tiles[size] / (values[unit] / tiles[unit]) for values in (seconds, processor))
        lines.append(f"| {size[0]} × {size[1]} | {tiles[size]} | {wall:.2f} | {work:.2f} | {peaks[size]} MiB |")
    typer.echo("\n".join(lines))
    typer.echo(
        f"\nRelative to the image of {tiles[unit]} tiles: {1000 * seconds[unit] / tiles[unit]:.1f} ms per tile, "
        f"{1000 * processor[unit] / tiles[unit]:.1f} ms of processor time. Tiles of {bundle.manifest.input.width} × "
        f"{bundle.manifest.input.height} with an overlap of {overlap} pixels."
    )


if __name__ == "__main__":
    typer.run(main)
