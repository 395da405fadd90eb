"""Measure the service beyond its capacity: throughput, latency, refusals, memory and fairness.

    python -m benchmarks.overload --models models --product washer
    python -m benchmarks.overload --models models --product washer --clients 64 --seconds 180 --rounds 1

Starts a service process and loads it with clients of another process, each of which sends the next image when it has
the response to the last one. Polite clients wait for `Retry-After` when they are refused, impolite ones send again at
once. Each client has an address of its own (`--shared-address`: all have the same). The last rows are one polite client
beside a client with 32 connections that ignores `Retry-After`. The rows are measured in turn, `--rounds` times, and
each figure is the median of the rounds, so other load on the machine affects all rows. Prints JSON; exits with code 1
if a limit in `criteria` is exceeded, such as one request that failed with another status than 503 with `Retry-After`.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.load import Group, Load, RunningLoad, good_jpeg, inspection_head, require_judged
from service.settings import Settings
from tests.serving import ServiceProcess, service_process

CLIENTS = (1, 8, 32, 64, 96)
GREEDY = 32
PROBE_INTERVAL_S = 0.05
GREEDY_ROW = f"1 polite beside {GREEDY} greedy"
_REFERENCE_CLIENTS = 8


@dataclass
class Measurement:
    """One row of one round.

    Attributes:
        load: What the clients observed.
        live_s: Latencies of /health/live in seconds.
        rss_bytes: Resident memory before, after, and the highest.
        service_cpu_s: Processor time of the service.
    """

    load: Load
    live_s: list[float]
    rss_bytes: tuple[int, int, int]
    service_cpu_s: float


@dataclass
class Row:
    """A kind of load, and its measurements in all rounds."""

    name: str
    groups: tuple[Group, ...]
    rounds: list[Measurement] = field(default_factory=list)

    def median(self, value: Callable[[Measurement], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(value(measured) for measured in self.rounds)

    @property
    def admitted_per_s(self) -> float:
        """Admitted requests per second, of all groups."""
        return self.median(lambda one: sum(len(o.latencies_s) for o in one.load.outcomes.values()) / one.load.seconds)

    def latency_ms(self, quantile: float, group: str | None = None) -> float | None:
        """Return a quantile of the latency of admitted requests in ms; None if there are none."""
        values = [_quantile(_latencies(measured, group), quantile) for measured in self.rounds]
        known = [value for value in values if value is not None]
        return round(1000 * statistics.median(known), 1) if known else None

    def live_ms(self, quantile: float) -> float:
        """Return a quantile of the latency of /health/live in ms."""
        return round(1000 * self.median(lambda one: float(np.quantile(one.live_s, quantile))), 1)

    @property
    def others(self) -> Counter[str]:
        """Events that are neither an admitted request nor a refusal with `Retry-After`, in all rounds."""
        total: Counter[str] = Counter()
        for measured in self.rounds:
            for outcome in measured.load.outcomes.values():
                total += outcome.others
        return total

    def report(self) -> dict[str, Any]:
        """Return the columns of the row."""
        return {
            "admitted_per_s": round(self.admitted_per_s, 1),
            "admitted_per_s_of_each_round": [
                round(sum(len(o.latencies_s) for o in one.load.outcomes.values()) / one.load.seconds, 1)
                for one in self.rounds
            ],
            "refused_per_s": round(
                self.median(lambda one: sum(o.refused for o in one.load.outcomes.values()) / one.load.seconds), 1
            ),
            "latency_ms": {
                group.name: {"p50": self.latency_ms(0.5, group.name), "p99": self.latency_ms(0.99, group.name)}
                for group in self.groups
            },
            "refusal_p50_ms": _milliseconds(
                [s for one in self.rounds for o in one.load.outcomes.values() for s in o.refused_s], 0.5
            ),
            "live_ms": {"p50": self.live_ms(0.5), "p99": self.live_ms(0.99)},
            "rss_mib": {
                name: round(statistics.median(one.rss_bytes[index] for one in self.rounds) / 2**20, 1)
                for index, name in enumerate(("before", "after", "peak"))
            },
            "cores": {
                "service": round(self.median(lambda one: one.service_cpu_s / one.load.seconds), 2),
                "load_generator": round(self.median(lambda one: one.load.cpu_s / one.load.seconds), 2),
            },
            # Other load on the machine changes the throughput more than this.
            "processor_ms_per_admitted": round(self.median(_processor_ms), 1),
            "others": dict(self.others),
        }


def _processor_ms(measured: Measurement) -> float:
    admitted = sum(len(outcome.latencies_s) for outcome in measured.load.outcomes.values())
    return 1000 * measured.service_cpu_s / max(1, admitted)


def _latencies(measured: Measurement, group: str | None) -> list[float]:
    outcomes = measured.load.outcomes
    chosen = outcomes.values() if group is None else [outcomes[group]]
    return [seconds for outcome in chosen for seconds in outcome.latencies_s]


def _quantile(values: Iterable[float], quantile: float) -> float | None:
    found = list(values)
    return float(np.quantile(found, quantile)) if found else None


def _milliseconds(values: Iterable[float], quantile: float) -> float | None:
    found = _quantile(values, quantile)
    return None if found is None else round(1000 * found, 1)


def measure(
    service: ServiceProcess, row: Row, head: bytes, body: bytes, *, warm_up_s: float, seconds: float
) -> Measurement:
    """Load the service with the clients of a row, and measure.

    Args:
        service: The service.
        row: The load.
        head: The request up to its body.
        body: The body.
        warm_up_s: Seconds before the measured time.
        seconds: Measured time.
    """
    port = int(service.url.rpartition(":")[2])
    over, memory, live_s = threading.Event(), [service.rss_bytes()], []
    load = RunningLoad(port, head, body, row.groups, warm_up_s, seconds)
    load.wait_for("begin")
    cpu_before = cpu_s(service)

    def probe() -> None:
        # The process of this thread does nothing else meanwhile.
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            while not over.wait(PROBE_INTERVAL_S):
                started = time.perf_counter()
                connection.request("GET", "/health/live")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise RuntimeError(f"/health/live returned {response.status}")
                live_s.append(time.perf_counter() - started)
                memory.append(service.rss_bytes())

    prober = threading.Thread(target=probe)
    prober.start()
    load.wait_for("end")
    spent_s = cpu_s(service) - cpu_before
    over.set()
    prober.join()
    return Measurement(load.result(), live_s, (memory[0], service.rss_bytes(), max(memory)), spent_s)


def cpu_s(service: ServiceProcess) -> float:
    """Return the processor time of a service since its start, in seconds."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_rows(clients: Iterable[int], *, share_address: bool) -> list[Row]:
    """Return the rows for these numbers of clients, and the row of the greedy client."""
    rows = []
    for count in clients:
        for name, obeys in (("polite", True), ("impolite", False)):
            group = Group(name, count, 1, obeys=obeys, share_address=share_address)
            rows.append(Row(f"{count} {name}", (group,)))
    greedy = Group("greedy", GREEDY, 2, obeys=False, share_address=True)
    return [*rows, Row(GREEDY_ROW, (Group("polite", 1, 1, obeys=True), greedy))]


def criteria(rows: dict[str, Row], deadline_s: float) -> dict[str, dict[str, Any]]:
    """Compare the rows with the limits, as far as the rows were measured.

    Args:
        rows: The rows by their names.
        deadline_s: Queue deadline of the service in seconds.
    """
    found: dict[str, dict[str, Any]] = {}

    def check(name: str, value: float | None, limit: float, *, at_least: bool = False) -> None:
        if value is not None:
            is_met = value >= limit if at_least else value <= limit
            found[name] = {"value": round(value, 3), "limit": limit, "met": is_met}

    peak = max(row.admitted_per_s for row in rows.values())
    for name, row in rows.items():
        check(f"{name}: failed requests", sum(row.others.values()), 0)
        check(f"{name}: p99 of all admitted / deadline", (row.latency_ms(0.99) or 0) / 1000 / deadline_s, 3)
        check(f"{name}: /health/live p99 ms", row.live_ms(0.99), 50)
        if sum(group.clients for group in row.groups) >= _REFERENCE_CLIENTS:
            check(f"{name}: throughput / peak", row.admitted_per_s / peak, 0.9, at_least=True)
        reference = rows.get(f"{_REFERENCE_CLIENTS} polite")
        if name != GREEDY_ROW and reference and (p50 := reference.latency_ms(0.5)):
            check(f"{name}: p50 / that of 8 clients", (row.latency_ms(0.5) or 0) / p50, 2)
    if (greedy := rows.get(GREEDY_ROW)) and (alone := rows.get("1 polite")):
        polite, before = greedy.latency_ms(0.5, "polite"), alone.latency_ms(0.5)
        if polite is not None and before:
            check(f"{GREEDY_ROW}: p50 of the polite client / alone", polite / before, 2)
    return found


def main(
    product: Annotated[str, typer.Option(help="Product to inspect.")] = "washer",
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    image: Annotated[Path | None, typer.Option(help="JPEG to post; a golden sample of the bundle by default.")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="Numbers of clients; 1, 8, 32, 64, 96 by default.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Measured seconds per row and round.")] = 15.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds before, per row and round.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 3,
    row: Annotated[
        list[str] | None, typer.Option(help='Rows to measure, such as "96 impolite"; all by default.')
    ] = None,
    shared_address: Annotated[bool, typer.Option(help="All clients of a row have the same address.")] = False,
    setting: Annotated[list[str] | None, typer.Option(help="Further settings, such as queue_limit=32.")] = None,
) -> None:
    """Measure the rows and check the results."""
    body = image.read_bytes() if image else good_jpeg(models, product)
    head = inspection_head(product, body)
    rows = [one for one in make_rows(clients or CLIENTS, share_address=shared_address) if not row or one.name in row]
    given = dict(pair.split("=", 1) for pair in setting or [])
    settings = {"provider": "cpu"} | given
    with (
        tempfile.TemporaryDirectory() as folder,
        service_process(models.absolute(), Path(folder), settings) as service,
    ):
        service.wait_until(200)
        require_judged(service, product, body)
        warm = Row("warm-up", (Group("polite", 4, 1, obeys=True),))
        measure(service, warm, head, body, warm_up_s=0, seconds=3)
        for _ in range(rounds):
            for one in rows:
                one.rounds.append(measure(service, one, head, body, warm_up_s=warm_up, seconds=seconds))
                typer.echo(f"{one.name}: {one.admitted_per_s:.1f} per second", err=True)
                time.sleep(1)
        code = service.terminate()
    checked = criteria(
        {one.name: one for one in rows},
        float(given.get("queue_deadline_s", Settings.model_fields["queue_deadline_s"].default)),
    )
    report = {
        "product": product,
        "image_bytes": len(body),
        "settings": settings,
        "shared_address": shared_address,
        "seconds": seconds,
        "rounds": rounds,
        "rows": {one.name: one.report() for one in rows},
        "criteria": checked,
        "exit_code": code,
    }
    typer.echo(json.dumps(report, indent=2))
    if not all(one["met"] for one in checked.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
