"""Measure what Ray Serve adds to an inspection, and to which replicas it sends the runs of one product.

    python -m benchmarks.ray_serve --models models --product washer

Everything is on this machine, with SQLite, one replica of `Ingress` and two of `Inspector`.

Latency: one client sends the same image in turn to `plumbline serve` (`single`) and through Ray (`ray`), first a JPEG
of 1024 x 1024 pixels, then a PNG of noise of about 5 MB, which the quality check rejects, so no graph runs. The order
alternates, so other load on the machine affects both alike; the differences are taken within a turn. `processor_ms` is
the processor time of one request: of the process, or of Ray's proxy and all replicas.

Spread: `--clients` clients without pauses send images of one product for `--seconds`. The share of each replica of
`Inspector` in the runs follows from its log, with the shipped `max_ongoing_requests` and with one that is never
reached. Prints JSON.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import psutil
import typer

from benchmarks.load import good_jpeg
from benchmarks.replicas import WARM_UP, added_interval, measure_latency
from service.inspection.runtime.configure import configure
from tests.ray_serve import RayService, ray_serve_process
from tests.running_service import encode
from tests.serving import service_process

_LARGE_SIDE = 1290
_NEVER_REACHED = 100


def large_png() -> bytes:
    """Return a PNG of noise, about 5 MB."""
    return encode(np.random.default_rng(0).integers(0, 256, (_LARGE_SIDE, _LARGE_SIDE, 3), dtype=np.uint8))


def processor_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the processor time that processes have used so far, in seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure_spread(ray: RayService, path: str, image: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Send images of one product and return rate and shares of the replicas of `Inspector`.

    Args:
        ray: The running application.
        path: Path of the product's inspections.
        image: The image to send.
        clients: Clients without pauses.
        seconds: Duration.
    """
    counts = [0] * clients
    until = time.monotonic() + seconds

    def send(number: int) -> None:
        with httpx.Client(base_url=ray.url, timeout=60) as client:
            while time.monotonic() < until:
                response = client.post(path, content=image, headers={"content-type": "image/jpeg"})
                counts[number] += response.status_code == 201

    before = ray.runs()
    threads = [threading.Thread(target=send, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = sorted((after - earlier for earlier, after in zip(before, ray.runs(), strict=True)), reverse=True)
    shares = [round(one / sum(runs), 2) for one in runs]
    return {"clients": clients, "inspections_per_s": round(sum(counts) / seconds, 1), "shares": shares}


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")],
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    turns: Annotated[int, typer.Option(min=20, help="Turns of the latency.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.5, help="Duration of each spread.")] = 10.0,
    clients: Annotated[int, typer.Option(min=1, help="Clients of the spread.")] = 8,
) -> None:
    """Compare the application on Ray Serve with a single process."""
    configure()
    models, path = models.absolute(), f"/v1/products/{product}/inspections"
    image = good_jpeg(models, product)
    settings = {"provider": "cpu"}
    report: dict[str, Any] = {"product": product, "turns": turns, "latency_ms": {}, "spread": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        single = stack.enter_context(service_process(models, folder / "single", settings))
        single.wait_until(200)
        ray = stack.enter_context(ray_serve_process(models, folder / "ray", settings))
        replicas = [ray.processes("ProxyActor"), ray.replicas("Ingress"), ray.replicas("Inspector")]
        processes = [[psutil.Process(single.process.pid)], list(chain(*replicas))]
        for name, sent in (("jpeg", image), ("png_5_mb", large_png())):
            before = [processor_seconds(one) for one in processes]
            found = measure_latency([single.url, ray.url], product, sent, turns)
            used = [processor_seconds(one) - start for one, start in zip(processes, before, strict=True)]
            medians = [round(1000 * float(value), 2) for value in np.median(found, axis=0)]
            added = [round(1000 * value, 2) for value in added_interval(found, 1, 0)]
            report["latency_ms"][name] = {
                "bytes": len(sent), "single": medians[0], "ray": medians[1],
                "added": added[0], "added_95": added[1:],
                "processor_ms": [round(1000 * seconds / (turns + WARM_UP), 1) for seconds in used],
            }  # fmt: skip
    for places in (None, _NEVER_REACHED):
        with (
            tempfile.TemporaryDirectory() as data,
            ray_serve_process(models, Path(data), settings, places=places) as ray,
        ):
            for count in (1, clients):
                spread = measure_spread(ray, path, image, count, seconds)
                report["spread"].append({"max_ongoing_requests": places or "shipped"} | spread)
    typer.echo(json.dumps(report, indent=2))


if __name__ == "__main__":
    typer.run(main)
