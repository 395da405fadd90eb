"""Measure what HAProxy and a shared database add to an inspection, and the throughput of two replicas.

    python -m benchmarks.replicas --models models --product washer

Latency: one client sends the same image in turn to a single process with SQLite (`single`), to a replica on PostgreSQL
(`replica`), and to the same replica through HAProxy (`proxy`). The order alternates, so other load on the machine
affects all alike; the differences are taken within a turn.

Throughput: `--clients` clients without pauses, in rounds of `--seconds` that alternate between the single process and
two replicas behind HAProxy on the same cores, with `--products` copies of the bundle. The clients run on the same
cores, too.

Everything is on this machine: HAProxy and PostgreSQL take processor time from the replicas. Prints JSON.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.load import good_jpeg, require_judged
from benchmarks.many_products import copy_bundle, record_self_tests
from benchmarks.overhead import Camera
from service.bundle.bundle import Bundle, newest_bundle
from service.inspection.runtime.configure import configure
from service.settings import Settings
from tests.postgres import postgres_process
from tests.proxy import proxy_process
from tests.serving import ServiceProcess, service_process

WARM_UP = 20  # turns
WAYS = ("single", "replica", "proxy")
_RESAMPLES = 2000
_BLOCK = 10  # turns; those close in time are under the same other load


def added_interval(latencies: npt.NDArray[np.float64], way: int, base: int) -> tuple[float, float, float]:
    """Return the median of what one way takes longer than another one, and its 95 % interval by a bootstrap of blocks.

    Args:
        latencies: Seconds by turn and way, of shape `[turns, ways]`, with at least ten turns.
        way: Index of the way.
        base: Index of the way that it is compared with.
    """
    added = latencies[:, way] - latencies[:, base]
    blocks = added[: len(added) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    generator = np.random.default_rng(0)
    chosen = blocks[generator.integers(0, len(blocks), (_RESAMPLES, len(blocks)))]
    low, high = np.quantile(np.median(chosen.reshape(_RESAMPLES, -1), axis=1), [0.025, 0.975])
    return float(np.median(added)), float(low), float(high)


def measure_latency(urls: Sequence[str], product: str, image: bytes, count: int) -> npt.NDArray[np.float64]:
    """Return seconds by turn and way, of shape `[count, len(urls)]`."""
    path = f"/v1/products/{product}/inspections"
    found = np.empty((count, len(urls)))
    with ExitStack() as stack:
        cameras = [
            Camera(
                stack.enter_context(closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60))),
                path,
                image,
                {},
                is_idempotent=False,
            )
            for url in urls
        ]
        for turn in range(-WARM_UP, count):
            for step in range(len(cameras)):
                way = (turn + step) % len(cameras)
                seconds = cameras[way].inspect()
                if turn >= 0:
                    found[turn, way] = seconds
    return found


def measure_throughput(url: str, products: Sequence[str], image: bytes, clients: int, seconds: float) -> float:
    """Return the inspections per second of clients without pauses.

    Raises:
        RuntimeError: A request failed for another reason than a lack of capacity.
    """
    counts, failures, give_up = [0] * clients, list[str](), time.perf_counter() + seconds

    def send(number: int) -> None:
        path = f"/v1/products/{products[number % len(products)]}/inspections"
        with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
            while time.perf_counter() < give_up and not failures:
                connection.request("POST", path, image, {"content-type": "image/jpeg"})
                response = connection.getresponse()
                body = response.read()
                if response.status == 201:
                    counts[number] += 1
                elif response.status != 503:
                    failures.append(f"{response.status}: {body.decode()}")

    threads = [threading.Thread(target=send, args=(number,)) for number in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(failures[0])
    return sum(counts) / (time.perf_counter() - started)


def main(
    product: Annotated[str, typer.Option(help="Product whose newest bundle is copied.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    count: Annotated[int, typer.Option(min=20, help="Turns of the measurement of latency.")] = 300,
    products: Annotated[int, typer.Option(min=1, help="Products of the measurement of throughput.")] = 8,
    clients: Annotated[int, typer.Option(min=1, help="Clients of the measurement of throughput.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of both sides.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of a round.")] = 6.0,
) -> None:
    """Compare replicas behind a proxy with a single process."""
    configure()
    image = good_jpeg(models, product)
    newest = newest_bundle((models / product).absolute())
    if newest is None:
        raise typer.BadParameter(f"{models / product} has no bundle", param_hint="--product")
    original = Bundle.load(newest)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [f"product-{number}" for number in range(products)]
        copies = [copy_bundle(original, folder / "models", name) for name in names]
        server = stack.enter_context(postgres_process(is_durable=True))
        database = stack.enter_context(server.database())

        def start(name: str, **settings: str) -> ServiceProcess:
            data = folder / name
            record_self_tests(copies, data, Settings(provider="cpu"))
            given = {"provider": "cpu"} | settings
            service = stack.enter_context(service_process(folder / "models", data, given))
            service.wait_until(200, timeout_s=300)
            return service

        single = start("single")
        shared = {"database_url": database, "artefacts_url": f"file://{folder / 'artefacts'}"}
        replicas = [start(f"replica-{number}", **shared) for number in range(2)]
        for service in (single, *replicas):
            require_judged(service, names[0], image)
        addresses = [urlsplit(one.url).netloc for one in replicas]
        to_one = stack.enter_context(proxy_process(addresses[:1]))
        to_both = stack.enter_context(proxy_process(addresses))
        to_one.wait_for_replicas(1)
        to_both.wait_for_replicas(2)
        latencies = measure_latency([single.url, replicas[0].url, to_one.url], names[0], image, count)
        typer.echo("latency measured", err=True)
        rates = [
            tuple(measure_throughput(url, names, image, clients, seconds) for url in (single.url, to_both.url))
            for _ in range(rounds)
        ]
    added = {
        f"{WAYS[way]} - {WAYS[base]}": [round(1000 * value, 3) for value in added_interval(latencies, way, base)]
        for way, base in ((2, 1), (1, 0), (2, 0))
    }
    report = {
        "image_bytes": len(image),
        "median_ms": {name: round(1000 * float(np.median(latencies[:, way])), 3) for way, name in enumerate(WAYS)},
        "added_ms_median_low_high": added,
        "per_second": {
            "single": round(statistics.median(pair[0] for pair in rates), 1),
            "two replicas": round(statistics.median(pair[1] for pair in rates), 1),
        },
        "throughput_ratio_by_round": [round(pair[1] / pair[0], 3) for pair in rates],
        "throughput_ratio": round(statistics.median(pair[1] / pair[0] for pair in rates), 3),
    }
    typer.echo(json.dumps(report, indent=2))


if __name__ == "__main__":
    typer.run(main)
