"""Compare start, memory and latency of this version of the service with those of another one.

    git worktree add OTHER COMMIT
    python -m benchmarks.versions --other OTHER

Both versions run with the packages of this environment. Each start has a new data folder; starts of the two versions
alternate, and so do the inspections of one camera, so other load on the machine affects both alike. Prints JSON:
medians of each version, and the ratios of this version to the other one. Exits with code 1 if one exceeds `--limit`.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.load import good_jpeg, require_judged
from benchmarks.overhead import Camera, ratio_interval
from tests.serving import ROOT, service_process

NAMES = ("other", "this")
WARM_UP = 20  # pairs of requests
_SETTINGS = {"provider": "cpu"}


def require_service(checkout: Path) -> None:
    """Check that a Python process that is started in a folder imports the `service` of this folder.

    Raises:
        typer.BadParameter: The folder has no `service`, or the environment prefers another one.
    """
    command = [sys.executable, "-c", "import service; print(service.__file__)"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode or not Path(done.stdout.strip()).is_relative_to(checkout.resolve()):
        raise typer.BadParameter(f"{checkout} must be a checkout of Plumbline; found: {done.stdout or done.stderr}")


def start_once(checkout: Path, models: Path) -> tuple[float, float]:
    """Start a service with an empty data folder, and return the seconds until it is ready and its resident MiB then."""
    with tempfile.TemporaryDirectory() as data:
        started = time.perf_counter()
        with service_process(models, Path(data), _SETTINGS, program=checkout) as service:
            service.wait_until(200)
            return time.perf_counter() - started, service.rss_bytes() / 2**20


def measure_starts(checkouts: tuple[Path, Path], models: Path, count: int) -> list[list[tuple[float, float]]]:
    """Start both versions in turn, and return seconds and MiB of each start by version."""
    found: list[list[tuple[float, float]]] = [[], []]
    for turn in range(count):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            found[index].append(start_once(checkouts[index], models))
    return found


def measure_latency(
    checkouts: tuple[Path, Path], models: Path, product: str, image: bytes, count: int
) -> tuple[list[tuple[float, float]], list[float]]:
    """Inspect one image with both versions in turn, and return pairs of seconds, and resident MiB at the end."""
    pairs: list[tuple[float, float]] = []
    with ExitStack() as running:
        services, cameras = [], []
        for checkout in checkouts:
            data = Path(running.enter_context(tempfile.TemporaryDirectory()))
            service = running.enter_context(service_process(models, data, _SETTINGS, program=checkout))
            service.wait_until(200)
            require_judged(service, product, image)
            connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=60)
            running.enter_context(closing(connection))
            services.append(service)
            cameras.append(Camera(connection, f"/v1/products/{product}/inspections", image, {}, is_idempotent=False))
        for turn in range(WARM_UP + count):
            latencies = [0.0, 0.0]
            for index in (0, 1) if turn % 2 == 0 else (1, 0):
                latencies[index] = cameras[index].inspect()
            if turn >= WARM_UP:
                pairs.append((latencies[0], latencies[1]))
        return pairs, [service.rss_bytes() / 2**20 for service in services]


def main(
    other: Annotated[Path, typer.Option(help="Checkout of the other version.")],
    product: Annotated[str, typer.Option(help="Product to inspect.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository, which both versions can read.")] = Path("models"),
    starts: Annotated[int, typer.Option(min=1, help="Starts of each version.")] = 7,
    count: Annotated[int, typer.Option(min=20, help="Inspections of each version.")] = 300,
    limit: Annotated[float, typer.Option(help="Largest accepted ratio.")] = 1.05,
) -> None:
    """Measure both versions in turn."""
    checkouts = (other.resolve(), ROOT)
    for checkout in checkouts:
        require_service(checkout)
    models = models.absolute()
    started = measure_starts(checkouts, models, starts)
    pairs, loaded = measure_latency(checkouts, models, product, good_jpeg(models, product), count)
    ready_s, ready_mib = (
        [statistics.median(start[value] for start in version) for version in started] for value in (0, 1)
    )
    latency, low, high = ratio_interval(pairs)
    latency_ms = [1000 * statistics.median(pair[index] for pair in pairs) for index in (0, 1)]
    figures = {"ready_s": ready_s, "ready_mib": ready_mib, "inspected_mib": loaded, "latency_ms": latency_ms}
    ratios = {name: values[1] / values[0] for name, values in figures.items()} | {"latency_ms": latency}
    report = {
        **{
            name: dict(zip(NAMES, (round(value, 3) for value in values), strict=True))
            for name, values in figures.items()
        },
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "latency_ratio_95": [round(low, 3), round(high, 3)],
        "limit": limit,
        "within_limit": max(ratios.values()) <= limit,
    }
    typer.echo(json.dumps(report, indent=2))
    if not report["within_limit"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
