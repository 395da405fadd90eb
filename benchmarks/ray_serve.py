"""Measure what Ray Serve adds to an inspection, and to which replicas it sends the runs of one product.

    python -m benchmarks.ray_serve [--write]

Everything is on this machine, with SQLite, one replica of `Ingress` and two of `Inspector`.

Latency: one client sends the same image in turn to `plumbline serve` (`single`) and through Ray (`ray`), first a JPEG
of 1024 x 1024 pixels, then a PNG of noise of about 5 MB, which the quality check rejects, so no graph runs. The order
alternates, so other load on the machine affects both alike; the differences are taken within a turn. `processor_ms` is
the processor time of one request: of the process, or of Ray's proxy and all replicas.

Spread: `--clients` clients without pauses send images of one product for `--seconds`. The share of each replica of
`Inspector` in the runs follows from its log, with the shipped `max_ongoing_requests` and with one that is never
reached. Each starts a cluster, so that no replica has the graph because of an earlier measurement. Prints JSON.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import psutil
import typer

from benchmarks.load import good_jpeg, require_judged
from benchmarks.marked_section import write_section
from benchmarks.replicas import WARM_UP, added_interval, measure_latency
from service.inspection.runtime.configure import configure
from service.inspection.runtime.threads import cpu_quota
from tests.ray_serve import RayService, ray_serve_process
from tests.running_service import encode
from tests.serving import service_process

DOCUMENT = Path(__file__).parents[1] / "docs" / "how-to" / "ray.md"
_LARGE_SIDE = 1290
_NEVER_REACHED = 100


def large_png() -> bytes:
    """Return a PNG of noise, about 5 MB."""
    return encode(np.random.default_rng(0).integers(0, 256, (_LARGE_SIDE, _LARGE_SIDE, 3), dtype=np.uint8))


def processor_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the processor time that processes have used so far, in seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def shares(before: Counter[str], after: Counter[str]) -> list[float]:
    """Return the shares of the replicas in the runs between two counts, the largest first.

    Raises:
        RuntimeError: There was no run.
    """
    runs = sorted((count - before[name] for name, count in after.items()), reverse=True)
    if not sum(runs):
        raise RuntimeError("no graph was run: no image was accepted, or the quality check rejects it")
    return [round(one / sum(runs), 2) for one in runs]


def measure_spread(ray: RayService, path: str, image: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Send images of one product. Return the rate, responses other than 201, and the shares of the replicas.

    Args:
        ray: The running application.
        path: Path of the product's inspections.
        image: The image to send.
        clients: Clients without pauses.
        seconds: Duration.
    """
    statuses = [Counter[int]() for _ in range(clients)]
    started = time.monotonic()

    def send(number: int) -> None:
        with httpx.Client(base_url=ray.url, timeout=60) as client:
            while time.monotonic() < started + seconds:
                response = client.post(path, content=image, headers={"content-type": "image/jpeg"})
                statuses[number][response.status_code] += 1

    before = ray.runs()
    threads = [threading.Thread(target=send, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - started
    found = sum(statuses, Counter[int]())
    return {
        "clients": clients,
        "inspections_per_s": round(found[201] / took_s, 1),
        "other_responses": {str(status): count for status, count in sorted(found.items()) if status != 201},
        "shares": shares(before, ray.runs()),
    }


def table(report: dict[str, Any]) -> str:
    """Format the report as Markdown."""
    kinds = {"jpeg": "JPEG of {:.0f} kB", "png_5_mb": "PNG of {:.1f} MB, rejected by the quality check"}
    lines = [
        f"Medians of {report['turns']} inspections, one at a time:",
        "",
        "| image | single process, ms | Ray, ms | added, ms (95 % interval) | processor time, ms, single / Ray |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in report["latency_ms"].items():
        kind = kinds[name].format(found["bytes"] / (1e3 if name == "jpeg" else 1e6))
        added = f"{found['added']} ({found['added_95'][0]} to {found['added_95'][1]})"
        used = " / ".join(str(one) for one in found["processor_ms"])
        lines.append(f"| {kind} | {found['single']} | {found['ray']} | {added} | {used} |")
    lines += [
        "",
        f"One product, clients without pauses, {report['seconds']:g} s each:",
        "",
        "| `max_ongoing_requests` of `Inspector` | clients | inspections per second | shares of its replicas |",
        "|---|---:|---:|---|",
    ]
    for found in report["spread"]:
        parts = " / ".join(f"{100 * share:.0f} %" for share in found["shares"])
        cells = (found["max_ongoing_requests"], found["clients"], found["inspections_per_s"], parts)
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    turns: Annotated[int, typer.Option(min=20, help="Turns of the latency.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.5, help="Duration of each spread.")] = 10.0,
    clients: Annotated[int, typer.Option(min=2, help="Clients of the spread, beside a single one.")] = 8,
    *,
    write: Annotated[bool, typer.Option("--write", help="Write the tables into docs/how-to/ray.md.")] = False,
) -> None:
    """Compare the application on Ray Serve with a single process."""
    configure()
    models, path = models.absolute(), f"/v1/products/{product}/inspections"
    image = good_jpeg(models, product)
    # The same threads for a run everywhere: Ray's replica would take as many as the cores that it reserves.
    settings = {"provider": "cpu", "threads": str(cpu_quota())}
    report: dict[str, Any] = {"product": product, "turns": turns, "seconds": seconds, "latency_ms": {}, "spread": []}

    def spread(ray: RayService, kind: str) -> None:
        for count in (1, clients):
            found = measure_spread(ray, path, image, count, seconds)
            report["spread"].append({"max_ongoing_requests": kind} | found)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        single = stack.enter_context(service_process(models, folder / "single", settings))
        single.wait_until(200)
        require_judged(single, product, image)
        ray = stack.enter_context(ray_serve_process(models, folder / "ray", settings, logs_runs=False))
        ray.wait_until_ready()
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
                "processor_ms": [round(1000 * one / (turns + WARM_UP), 1) for one in used],
            }  # fmt: skip
    for kind, places in (("shipped", None), (f"{_NEVER_REACHED}, never reached", _NEVER_REACHED)):
        with (
            tempfile.TemporaryDirectory() as data,
            ray_serve_process(models, Path(data), settings, places=places) as ray,
        ):
            ray.wait_until_ready()
            spread(ray, kind)
    typer.echo(json.dumps(report, indent=2))
    if write:
        write_section("ray-serve", table(report), DOCUMENT)


if __name__ == "__main__":
    typer.run(main)
