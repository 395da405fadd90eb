"""Measure what API keys and idempotency keys cost per inspection.

    python -m benchmarks.overhead --models models --product washer

Starts two services with data folders of their own: one without credentials, and one with an API key. Both inspect the
same image in turn over one connection each; the requests to the second one have the key and an `Idempotency-Key`, and
the order within a pair alternates, so other load on the machine affects both equally. The audit log is part of both
services: it records changes, and an inspection is none. Prints JSON; exits with code 1 if the ratio of the median
latencies exceeds `--limit`.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import numpy as np
import typer

from benchmarks.load import good_jpeg, require_judged
from benchmarks.overload import cpu_s
from tests.serving import ROOT, service_process

WARM_UP = 20  # pairs
_RESAMPLES = 2000
_BLOCK = 10  # pairs; those close in time are under the same other load


class Camera:
    """One connection that sends one image again and again.

    Args:
        connection: The connection.
        path: Path of the inspections.
        image: The encoded image.
        headers: Headers of each request.
        is_idempotent: Whether each request has an `Idempotency-Key` of its own.
    """

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        image: bytes,
        headers: Mapping[str, str],
        *,
        is_idempotent: bool,
    ) -> None:
        self._connection = connection
        self._path = path
        self._image = image
        self._headers = {"content-type": "image/jpeg", **headers}
        self._is_idempotent = is_idempotent

    def inspect(self) -> float:
        """Inspect the image and return the latency in seconds.

        Raises:
            RuntimeError: It was not inspected.
        """
        key = {"idempotency-key": str(uuid4())} if self._is_idempotent else {}
        started = time.perf_counter()
        self._connection.request("POST", self._path, self._image, {**self._headers, **key})
        response = self._connection.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started
        if response.status != 201:
            raise RuntimeError(f"{response.status}: {body.decode()}")
        return seconds


def create_key(data: Path) -> str:
    """Create an API key with the scope `inspect` in a data folder, and return it."""
    command = [
        sys.executable,
        "-m",
        "service.cli.main",
        "key",
        "create",
        "benchmark",
        "--scope",
        "inspect",
        "--create-database",
    ]
    done = subprocess.run(
        [*command, "--data", str(data), "--create-database", "--json"], cwd=ROOT, check=True, capture_output=True
    )
    key: str = json.loads(done.stdout)["key"]
    return key


def ratio_interval(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the ratio of the medians, the second to the first, and its 95 % interval by a bootstrap of blocks."""
    values = np.array(pairs)
    blocks = values[: len(values) // _BLOCK * _BLOCK].reshape(-1, _BLOCK, 2)
    generator = np.random.default_rng(0)
    chosen = blocks[generator.integers(0, len(blocks), (_RESAMPLES, len(blocks)))]
    medians = np.median(chosen.reshape(_RESAMPLES, -1, 2), axis=1)
    low, high = np.quantile(medians[:, 1] / medians[:, 0], [0.025, 0.975])
    without, having = np.median(values, axis=0)
    return float(having / without), float(low), float(high)


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    image: Annotated[Path | None, typer.Option(help="JPEG to post; a golden sample of the bundle by default.")] = None,
    count: Annotated[int, typer.Option(min=20, help="Number of measured pairs of requests.")] = 600,
    limit: Annotated[float, typer.Option(help="Largest accepted ratio.")] = 1.05,
) -> None:
    """Compare the latency with and without keys."""
    body = image.read_bytes() if image else good_jpeg(models, product)
    path = f"/v1/products/{product}/inspections"
    pairs: list[tuple[float, float]] = []
    with ExitStack() as running:
        services, cameras = [], []
        for name in ("without", "with"):
            data = Path(running.enter_context(tempfile.TemporaryDirectory()))
            key = {} if name == "without" else {"authorization": f"Bearer {create_key(data)}"}
            service = running.enter_context(service_process(models.absolute(), data, {"provider": "cpu"}))
            service.wait_until(200)
            if not key:
                require_judged(service, product, body)
            address = service.url.removeprefix("http://")
            connection = running.enter_context(closing(http.client.HTTPConnection(address, timeout=60)))
            services.append(service)
            cameras.append(Camera(connection, path, body, key, is_idempotent=bool(key)))
        cpu_before = [0.0, 0.0]
        for turn in range(WARM_UP + count):
            if turn == WARM_UP:
                cpu_before = [cpu_s(service) for service in services]
            latencies = [0.0, 0.0]
            for index in (0, 1) if turn % 2 == 0 else (1, 0):
                latencies[index] = cameras[index].inspect()
            if turn >= WARM_UP:
                pairs.append((latencies[0], latencies[1]))
        cpu = [cpu_s(service) - before for service, before in zip(services, cpu_before, strict=True)]
    ratio, low, high = ratio_interval(pairs)
    report = {
        "product": product,
        "image_bytes": len(body),
        "pairs": count,
        "median_ms": {
            name: round(1000 * statistics.median(pair[index] for pair in pairs), 3)
            for index, name in enumerate(("without", "with"))
        },
        "ratio": round(ratio, 4),
        "ratio_95": [round(low, 4), round(high, 4)],
        # Both services also do their periodic work, such as the one of the audit log, while they wait.
        "processor_ms_per_inspection": {
            name: round(1000 * spent / count, 2) for name, spent in zip(("without", "with"), cpu, strict=True)
        },
        "processor_ratio": round(cpu[1] / cpu[0], 4),
        "limit": limit,
        "within_limit": ratio <= limit,
    }
    typer.echo(json.dumps(report, indent=2))
    if ratio > limit:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
