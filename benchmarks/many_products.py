"""Measure start, memory and latency of a service with many products.

    python -m benchmarks.many_products
    python -m benchmarks.many_products --products 40 --tiny

Writes copies of a bundle under other product names and starts a service process that loads them on demand. Prints JSON:

- `first_start_s`, `start_s`: time from the start of the process until it is ready, with an empty database and with the
  database of the first start;
- `ready_mib`: resident memory when it is ready, with one product in memory;
- `first_product_mib`: resident memory after a hundred inspections of one product, in a service that has no other one;
- `further_product_mib`: growth per further product whose bundle was loaded and used;
- `all_mib`: resident memory with all bundles in memory, and `within_limit_mib`: the largest value with a memory for a
  quarter of them, while all products are inspected in turn;
- `estimated_mib`: what the service counts for one bundle (`memory_bytes`);
- `first_load_ms`, `reload_ms`: median latency of an inspection whose bundle was loaded for the first time, and again
  after it had left the memory; `in_memory_ms`: of one whose bundle was in memory;
- `contended`: two products that do not fit into the memory together, inspected by one client each without pauses: loads
  per second, the share of the requests that were refused, and the median latency of the others.

The self-test in a process of its own is not part of the latencies: it runs once per bundle and machine. Here the one of
the original stands for all copies, whose graphs are the same.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import onnx
import typer
from prometheus_client.parser import text_string_to_metric_families

from service.bundle.bundle import Bundle, newest_bundle
from service.bundle.manifest import ManifestDraft, graph_metadata
from service.bundle.writer import write_bundle
from service.deployment.configuration import bundle_loader
from service.deployment.memory_limits import memory_bytes
from service.deployment.passed_tests import SELF_TESTS, PassedSelfTests
from service.inspection.runtime.configure import configure
from service.settings import Settings
from tests.bundles import part, write_tiny_bundle
from tests.running_service import encode
from tests.serving import ServiceProcess, service_process

MIB = 2**20


@dataclass
class Contention:
    """What two clients measured whose products do not fit into the memory together.

    Attributes:
        latencies_s: Latencies of the inspections that succeeded.
        refused: Number of the others.
        loads: Loads of bundles meanwhile.
        seconds: Duration.
    """

    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    loads: float = 0.0
    seconds: float = 0.0


def copy_bundle(bundle: Bundle, models: Path, product: str) -> Bundle:
    """Write a bundle with the same graph, card and golden samples for another product."""
    draft = ManifestDraft.model_validate(bundle.manifest.model_dump(exclude={"files"}) | {"product": product})
    graph = onnx.load_model_from_string(bundle.read_model())
    onnx.helper.set_model_props(graph, dict(graph_metadata(draft)))
    model = bytes(graph.SerializeToString(deterministic=True))
    return write_bundle(models, draft=draft, model=model, card=bundle.card, golden=bundle.golden, images=bundle.images)


def write_products(original: Bundle, models: Path, count: int) -> list[Bundle]:
    """Write copies of a bundle for the products `product-000` and so on."""
    return [copy_bundle(original, models, f"product-{number:03d}") for number in range(count)]


def record_self_tests(bundles: Sequence[Bundle], data: Path, settings: Settings) -> None:
    """Record the self-tests of copies as passed."""
    data.mkdir(parents=True, exist_ok=True)
    passed, loader = PassedSelfTests(data / SELF_TESTS), bundle_loader(settings)
    for bundle in bundles:
        passed.add(loader.self_test_facts(bundle))


@contextmanager
def started(models: Path, data: Path, memory: int | None) -> Iterator[tuple[ServiceProcess, httpx.Client, float]]:
    """Run a service. Yield it with a client and the seconds from its start until it was ready."""
    begun = time.perf_counter()
    settings = {"provider": "cpu"} | ({} if memory is None else {"bundle_memory_bytes": str(memory)})
    with service_process(models, data, settings) as service:
        service.wait_until(200, timeout_s=600)
        seconds = time.perf_counter() - begun
        with httpx.Client(base_url=service.url, timeout=60) as client:
            yield service, client, seconds


def inspect(client: httpx.Client, product: str, image: bytes) -> float:
    """Inspect an image and return the latency in seconds."""
    begun = time.perf_counter()
    client.post(f"/v1/products/{product}/inspections", content=image, headers=HEADERS).raise_for_status()
    return time.perf_counter() - begun


HEADERS = {"content-type": "application/octet-stream"}


def loads(client: httpx.Client) -> float:
    """Return how many bundles were loaded on demand."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return next(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "inspection_bundle_load_seconds_count"
    )


def contend(service: ServiceProcess, products: Sequence[str], image: bytes, seconds: float) -> Contention:
    """Inspect each product with one client, without pauses, for a while."""
    result, lock = Contention(seconds=seconds), threading.Lock()
    end = time.perf_counter() + seconds

    def work(product: str) -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            while (begun := time.perf_counter()) < end:
                path = f"/v1/products/{product}/inspections"
                response = client.post(path, content=image, headers=HEADERS)
                with lock:
                    if response.status_code == 201:
                        result.latencies_s.append(time.perf_counter() - begun)
                    else:
                        result.refused += 1
                if response.status_code != 201:
                    time.sleep(float(response.headers.get("retry-after", 1)))

    with httpx.Client(base_url=service.url) as client:
        before = loads(client)
        threads = [threading.Thread(target=work, args=(product,)) for product in products]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        result.loads = loads(client) - before
    return result


def main(
    models: Annotated[Path, typer.Option(help="Model repository with the bundle to copy.")] = Path("models"),
    product: Annotated[str, typer.Option(help="Product whose newest bundle is copied.")] = "washer",
    products: Annotated[int, typer.Option(min=8, help="Number of copies.")] = 200,
    tiny: Annotated[bool, typer.Option("--tiny", help="Copy a tiny bundle instead, to try the benchmark.")] = False,
    image: Annotated[Path, typer.Option(help="Image to inspect.")] = Path("docs/samples/good-1.jpg"),
    seconds: Annotated[float, typer.Option(help="Duration of the contention.")] = 30.0,
) -> None:
    """Measure and print the figures."""
    configure()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if tiny:
            original, sent = write_tiny_bundle(folder / "original"), encode(part())
        else:
            newest = newest_bundle((models / product).absolute())
            if newest is None:
                raise typer.BadParameter(f"{models / product} holds no bundle")
            original, sent = Bundle.load(newest), image.read_bytes()
        report = measure(original, folder, products, sent, seconds)
    typer.echo(json.dumps(report, indent=2))


def measure(original: Bundle, folder: Path, count: int, image: bytes, seconds: float) -> dict[str, object]:
    """Run all measurements.

    Args:
        original: The bundle to copy.
        folder: An empty folder.
        count: Number of products.
        image: Encoded image to inspect.
        seconds: Duration of the contention.
    """
    bundles = write_products(original, folder / "models", count)
    names = [bundle.manifest.product for bundle in bundles]
    estimate = memory_bytes(bundles[0].manifest)
    report: dict[str, object] = {"products": count, "model_mib": _mib(len(bundles[0].read_model()))}

    copy_bundle(original, folder / "single", "product-000")
    single = Settings(models=folder / "single", data=folder / "single-data", provider="cpu")
    record_self_tests(bundles[:1], single.data, single)
    with started(single.models, single.data, None) as (service, client, _):
        for _ in range(100):
            inspect(client, names[0], image)
        report["first_product_mib"] = _mib(service.rss_bytes())

    settings = Settings(models=folder / "models", data=folder / "data", provider="cpu")
    record_self_tests(bundles, settings.data, settings)
    with started(settings.models, settings.data, count * estimate) as (service, client, start_s):
        report["first_start_s"], report["ready_mib"] = round(start_s, 2), _mib(service.rss_bytes())
        inspect(client, names[0], image)
        before, first = service.rss_bytes(), []
        for name in names[1:]:
            first.append(inspect(client, name, image))
        after = service.rss_bytes()
        report["further_product_mib"] = round((after - before) / MIB / (count - 1), 2)
        report["all_mib"], report["estimated_mib"] = _mib(after), round(estimate / MIB, 2)
        report["first_load_ms"] = _median_ms(first)
        report["in_memory_ms"] = _median_ms([inspect(client, name, image) for name in names])

    with started(settings.models, settings.data, count // 4 * estimate) as (service, client, start_s):
        report["start_s"], largest, again = round(start_s, 2), 0, []
        for cycle, name in itertools.product(range(2), names):
            latency = inspect(client, name, image)
            largest = max(largest, service.rss_bytes())
            if cycle:
                again.append(latency)
        report["within_limit_mib"], report["reload_ms"] = _mib(largest), _median_ms(again)

    with started(settings.models, settings.data, estimate * 3 // 2) as (service, client, _):
        both = contend(service, names[:2], image, seconds)
    report["contended"] = {
        "loads_per_second": round(both.loads / both.seconds, 2),
        "completed": len(both.latencies_s),
        "refused": both.refused,
        "median_ms": _median_ms(both.latencies_s),
    }
    return report


def _mib(size: int) -> float:
    return round(size / MIB, 1)


def _median_ms(latencies_s: Sequence[float]) -> float:
    return round(1000 * statistics.median(latencies_s), 1)


if __name__ == "__main__":
    typer.run(main)
