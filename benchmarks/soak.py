"""Soak test: eight clients inspect images; every inspection with a response must be stored, memory must not grow.

    python -m benchmarks.soak --models models --product washer --count 10000
    python -m benchmarks.soak --models models --product washer --count 10000 --kill

Prints JSON: responses and stored inspections, throughput, resident memory over time, and the latency of /health/live
under load. With `--kill`, the service is killed (SIGKILL) half-way and started again. Exits with code 1 if an
inspection with a response is not stored, the quality check rejected an image, memory grew by more than 10 % in the
second half, or the latency of /health/live exceeded 50 ms (p99).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Set
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer

from benchmarks.load import good_jpeg, require_judged
from tests.serving import ServiceProcess, service_process

CLIENTS = 8
PROBE_INTERVAL_S = 0.05
MEMORY_INTERVAL_S = 1.0


@dataclass
class Run:
    """Measurements under load.

    Attributes:
        completed: Decision of every inspection with a response, by id.
        refused: Number of responses with an error status.
        disconnected: Number of clients that lost their connection.
        probe_s: Latencies of /health/live in seconds.
        memory_bytes: Resident memory of the service over time.
        seconds: Duration.
    """

    completed: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    disconnected: int = 0
    probe_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def invalid(self) -> int:
        """Number of images that the quality check rejected, so that the graph did not run."""
        return sum(decision == "invalid" for decision in self.completed.values())


def send(service: ServiceProcess, product: str, image: bytes, count: int, run: Run, kill_after: int | None) -> None:
    """Send images with eight clients until `count` inspections have a response, or the service is killed."""
    tickets = itertools.count(len(run.completed))
    over = threading.Event()
    lock = threading.Lock()

    def client() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as http:
            while next(tickets) < count and not over.is_set():
                try:
                    response = http.post(
                        f"/v1/products/{product}/inspections", content=image, headers={"content-type": "image/jpeg"}
                    )
                except httpx.TransportError:
                    run.disconnected += 1
                    return
                with lock:
                    if response.status_code == 201:
                        verdict = response.json()
                        run.completed[verdict["id"]] = verdict["decision"]
                    else:
                        run.refused += 1

    # The probe runs in a separate process. In this one, it would measure delays caused by the clients.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    prober = context.Process(target=probe, args=(service.url, sender))
    prober.start()
    sender.close()  # the child has its own copy; the pipe ends when the child exits

    def watch() -> None:
        next_sample = 0.0
        while not over.wait(0.01):
            # The pipe is at its end when the process has exited.
            with contextlib.suppress(EOFError):
                while receiver.poll():
                    run.probe_s.append(receiver.recv())
            if kill_after is not None and len(run.completed) >= kill_after:
                service.kill()
                return
            if time.perf_counter() >= next_sample:
                run.memory_bytes.append(service.rss_bytes())
                next_sample = time.perf_counter() + MEMORY_INTERVAL_S

    started = time.perf_counter()
    watcher = threading.Thread(target=watch)
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    watcher.join()
    run.seconds += time.perf_counter() - started
    prober.terminate()
    prober.join()
    receiver.close()


def probe(url: str, latencies: Connection) -> None:
    """Request /health/live repeatedly and send the latency of each response to the parent process."""
    with httpx.Client(base_url=url, timeout=60) as http, contextlib.suppress(httpx.TransportError, OSError):
        while True:
            started = time.perf_counter()
            http.get("/health/live").raise_for_status()
            latencies.send(time.perf_counter() - started)
            time.sleep(PROBE_INTERVAL_S)


def stored(service: ServiceProcess) -> dict[str, str]:
    """Return the decision of every stored inspection by its id."""
    found: dict[str, str] = {}
    cursor: str | None = None
    with httpx.Client(base_url=service.url, timeout=60) as http:
        while True:
            params: dict[str, str | int] = {"limit": 500} | ({"cursor": cursor} if cursor else {})
            page = http.get("/v1/inspections", params=params).json()
            found |= {item["id"]: item["decision"] for item in page["items"]}
            cursor = page["next_cursor"]
            if cursor is None:
                return found


def missing_files(data: Path, ids: Set[str]) -> int:
    """Return how many files, images and anomaly maps, are missing for these inspections."""
    files = [path for path in (data / "inspections").rglob("*") if path.is_file()]
    maps = {path.stem for path in files if path.suffix == ".npy"}
    images = {path.stem for path in files if path.suffix != ".npy"}
    return len(ids - maps) + len(ids - images)


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")],
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    count: Annotated[int, typer.Option(min=100, help="Number of inspections.")] = 10_000,
    image: Annotated[Path | None, typer.Option(help="JPEG to post; a golden sample of the bundle by default.")] = None,
    kill: Annotated[bool, typer.Option(help="Kill the service half-way and start it again.")] = False,
    data: Annotated[Path | None, typer.Option(help="Data folder; a temporary one by default.")] = None,
) -> None:
    """Run the soak test and check its results."""
    sample = image.read_bytes() if image else good_jpeg(models, product, (512, 512))
    settings = {"provider": "cpu"}
    run = Run()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (data or Path(scratch)).absolute()
        if kill:
            with service_process(models.absolute(), folder, settings) as service:
                service.wait_until(200)
                require_judged(service, product, sample)
                send(service, product, sample, count, run, kill_after=count // 2)
        with service_process(models.absolute(), folder, settings) as service:
            service.wait_until(200)
            require_judged(service, product, sample)
            run.memory_bytes.clear()  # only the memory of this process counts
            if len(run.completed) < count:
                send(service, product, sample, count, run, kill_after=None)
            found = stored(service)
            lost = [key for key, decision in run.completed.items() if found.get(key) != decision]
            lacking = missing_files(folder, found.keys())
            code = service.terminate()
    half = run.memory_bytes[len(run.memory_bytes) // 2 :]
    growth = max(half) / half[0] - 1 if half else 0.0
    probe_p99_ms = 1000 * float(np.quantile(run.probe_s, 0.99))
    report = {
        "product": product,
        "clients": CLIENTS,
        "image_bytes": len(sample),
        "killed": kill,
        "completed": len(run.completed),
        "refused": run.refused,
        "disconnected_clients": run.disconnected,
        "stored": len(found),
        "completed_but_not_stored": len(lost),
        "completed_without_verdict": run.invalid,
        "files_missing": lacking,
        "inspections_per_s": round(len(run.completed) / run.seconds, 1),
        "memory_mib": {
            "first": round(run.memory_bytes[0] / 2**20, 1),
            "last": round(run.memory_bytes[-1] / 2**20, 1),
            "peak": round(max(run.memory_bytes) / 2**20, 1),
            "growth_in_second_half": round(growth, 4),
            "every_tenth": [round(value / 2**20) for value in run.memory_bytes[:: max(1, len(run.memory_bytes) // 10)]],
        },
        "live_ms": {
            "median": round(1000 * float(np.median(run.probe_s)), 2),
            "p99": round(probe_p99_ms, 2),
            "worst": round(1000 * max(run.probe_s), 2),
        },
        "exit_code": code,
    }
    typer.echo(json.dumps(report, indent=2))
    if lost or lacking or run.invalid or growth > 0.1 or probe_p99_ms > 50:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
