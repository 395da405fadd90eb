"""Replicas behind HAProxy, on PostgreSQL and S3, with many products: kill, pause, restart and stop them under load.

    python -m benchmarks.faults.fleet_faults
    python -m benchmarks.faults.fleet_faults --replicas 4 --products 1000 --seconds 300

The bundles are in a bundle store on the S3 server, imported as `plumbline bundle import-repository` does. Each replica
has a cache of its own, which holds the graphs of at most `--disk` of the products, and memory for `--cached` of them.
Images and maps are on the S3 server, too.

Clients send images with an idempotency key each; the products follow a Zipf distribution. They send a request again
with the same key after a 503, when `Retry-After` asks for it, and after a closed connection. Without `--period`, a
client sends the next image when the last one was answered, which overloads the replicas; with it, as a camera does.
Meanwhile a person changes recipes through the proxy.

A plant runs for days, so the fleet is warmed up before the measured time: one image of every product, the most
frequent ones last, and then the same load for `--warm-up` seconds.

In the measured time, in this order: a replica is killed with SIGKILL and started again, another one is stopped with
SIGSTOP for `--pause` seconds, PostgreSQL is restarted, the port of the S3 server is closed for `--pause` seconds, and a
replica is replaced as in an upgrade: SIGTERM, then a new process. Afterwards the script checks, for the warm-up, too:

- no response was a 5xx but 503, and no key was answered with two inspections;
- every inspection that was answered is stored, once, and nothing is stored twice;
- no inspection was judged by a recipe that is older than the newest one when its request was sent;
- a replay of `--replays` inspections (0: all) from their stored images has the same result;
- recipes were changed, and the replica that was replaced ended with exit code 0;
- the hit rate of the measured time is at least `--least-hit-rate`.

Prints JSON. The hit rate is the share of the leases whose bundle was in memory when the request asked for it, over the
measured time and all replicas; what a killed replica counted in its last moment is not known. `phases` has the hits,
misses, loads and evictions before the first fault, during each fault, and after it; a fault that stops a replica ends
when the replica is ready again, and `starts` says how long that took. Exits with code 1 if a check fails.
`--setting NAME=VALUE` adds a setting of the replicas, such as `artefacts_url=file:///FOLDER`.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import typer

from benchmarks.faults.fleet_faults.checks import group_by_product, replay_findings, stored_findings
from benchmarks.faults.fleet_faults.disturbances import Disturbances
from benchmarks.faults.fleet_faults.fleet import CREDENTIALS, Fleet, added, cpu_seconds, hit_rate
from benchmarks.faults.fleet_faults.load import FleetLoad, LoadPlan
from benchmarks.faults.fleet_faults.observed import Observed
from benchmarks.faults.fleet_faults.preparation import cache_limit, import_all, record_for_all, write_products
from benchmarks.faults.fleet_faults.routes import marked_down, sent_elsewhere
from service.deployment.memory_limits import memory_bytes
from service.inspection.runtime.configure import configure
from service.settings import Settings
from tests.postgres import postgres_process
from tests.proxy import proxy_process
from tests.s3 import s3_process

_WARM_S = 600.0


@dataclass
class Steps:
    """The duration of each step of the script.

    Attributes:
        seconds: Seconds by step.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block, and print its duration."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)
        typer.echo(f"{name}: {self.seconds[name]} s", err=True)


def main(
    replicas: Annotated[int, typer.Option(min=2, max=8, help="Number of replicas.")] = 4,
    products: Annotated[int, typer.Option(min=10, help="Number of products.")] = 100,
    cached: Annotated[float, typer.Option(help="Share of the products that fit into the memory of a replica.")] = 0.2,
    disk: Annotated[float, typer.Option(help="Share of the products whose graphs fit into its cache.")] = 0.4,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 32,
    period: Annotated[float, typer.Option(min=0, help="Seconds between two images of a client; 0: no pauses.")] = 0.0,
    warm_up: Annotated[float, typer.Option(help="Seconds of the load before the measured time.")] = 30.0,
    seconds: Annotated[float, typer.Option(min=30, help="Measured time.")] = 60.0,
    balance: Annotated[int, typer.Option(min=0, help="Percent of the mean load that a replica may have.")] = 150,
    pause: Annotated[float, typer.Option(help="Seconds of a pause of a replica, and of the S3 server.")] = 10.0,
    replays: Annotated[int, typer.Option(help="Inspections to replay; 0 for all.")] = 0,
    least_hit_rate: Annotated[float, typer.Option(help="Smallest hit rate that is accepted.")] = 0.95,
    setting: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, a further setting of the replicas.")] = None,
) -> None:
    """Disturb a fleet under load and check what it stored."""
    configure()
    os.environ |= CREDENTIALS
    names, steps = [f"product-{number:04d}" for number in range(products)], Steps()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(postgres_process(is_durable=True))
        s3 = stack.enter_context(s3_process())
        bucket = s3.bucket()
        with steps.step("bundles written"):
            bundles = write_products(folder / "models", names)
        given = {
            "provider": "cpu",
            "threads": "1",
            "database_url": stack.enter_context(server.database()),
            "database_connect_timeout_s": "2",
            "artefacts_url": f"s3://{bucket}/artefacts",
            "bundle_store": f"s3://{bucket}/bundles",
            "s3_endpoint_url": s3.url,
            "bundle_memory_bytes": str(int(cached * products * max(memory_bytes(one.manifest) for one in bundles))),
            "bundle_cache_bytes": str(cache_limit(bundles, disk)),
            "idle_timeout_s": "75",
            "shutdown_delay_s": "3",
        } | dict(one.split("=", 1) for one in setting or ())
        fleet = Fleet(folder, given)
        # The data folder of the first replica has the results of the self-tests, which replays need.
        settings = Settings.model_validate(given | {"models": folder / "cache-checks", "data": fleet.data(0)})
        with steps.step("bundles imported"):
            import_all(folder / "models", bundles, settings)
            record_for_all(bundles, [fleet.data(number) for number in range(replicas)], settings)
        stack.enter_context(fleet.stack)
        with steps.step("replicas started"):
            for number in range(replicas):
                fleet.start(number)
        addresses = [urlsplit(one.url).netloc for one in fleet.replicas]
        proxy = stack.enter_context(proxy_process(addresses, {"PLUMBLINE_PROXY_BALANCE": str(balance)}))
        proxy.wait_for_replicas(replicas)
        port = urlsplit(proxy.url).port
        assert port is not None
        load = FleetLoad(LoadPlan(port, names, clients, period_s=period))
        stack.callback(load.kill)
        with steps.step("one image of every product"):
            load.wait_until_warm(_WARM_S)
        with steps.step("warm-up"):
            time.sleep(warm_up)
        programs = {"s3": s3.pid, "postgresql": server.pid, "haproxy": proxy.pid, "clients": load.pid}
        before = {name: cpu_seconds(pid) for name, pid in programs.items()}
        load.begin_measuring()
        disturbances = Disturbances(fleet, server, s3, seconds, pause)
        with steps.step("measured time"):
            disturbances.run()
        observed = load.stop()
        after = {name: cpu_seconds(pid) for name, pid in (programs | {"postgresql": server.pid}).items()}
        after["postgresql"] += disturbances.database_cpu_s
        proxy.wait_for_replicas(replicas)
        counted = added(*disturbances.counted.values())
        groups = group_by_product(observed)
        if replays:
            groups = _sampled(groups, replays)
        fleet.stack.close()
        with steps.step("checks"):
            findings = stored_findings(observed, given["database_url"])
            replayed = replay_findings(groups, settings)
        findings["replays that differ"] = replayed["replays that differ"]
        findings["exit codes"] = disturbances.exit_codes
        rate = hit_rate(counted)
        findings["hit rate too low"] = rate is None or rate < least_hit_rate
        report = {
            "replicas": replicas,
            "balance": balance,
            "clients": clients,
            "period_s": period,
            "products": products,
            "bundles_in_memory": int(cached * products),
            "cache_limit_bytes": int(given["bundle_cache_bytes"]),
            "images": urlsplit(given["artefacts_url"]).scheme,
            "bundles": urlsplit(given["bundle_store"]).scheme,
            "steps_s": steps.seconds,
            **_describe(observed, disturbances.measured_s),
            "hit_rate": rate,
            "counted": {name: round(value, 1) for name, value in sorted(counted.items())},
            "phases": {
                what: {"seconds": disturbances.lasted_s[what], "hit_rate": hit_rate(one), **_rounded(one)}
                for what, one in disturbances.counted.items()
            },
            "starts": [asdict(one) for one in fleet.starts],
            "cpu_s": {"replicas": round(counted["cpu_s"], 1)}
            | {name: round(after[name] - before[name], 1) for name in programs},
            "sent_elsewhere": sent_elsewhere(proxy.log),
            "marked_down": marked_down(proxy.log),
            "replayed": replayed["replayed"],
            "findings": findings,
        }
    typer.echo(json.dumps(report, indent=2))
    if any(findings.values()):
        raise typer.Exit(1)


def _describe(observed: Observed, seconds: float) -> dict[str, Any]:
    measured = observed.measured
    latencies = [1000 * answer.seconds for answer in measured] or [float("nan")]
    return {
        "answered": len(observed.answers),
        "answered_measured": len(measured),
        "per_second": round(len(measured) / seconds, 1),
        "until_answered_ms": {f"p{share}": round(float(np.percentile(latencies, share))) for share in (50, 99)},
        "statuses": dict(observed.statuses),
        "problems": dict(observed.problems),
        "closed_connections": observed.closed,
        "recipe_changes": observed.changes,
    }


def _rounded(counted: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in sorted(counted.items()) if value}


def _sampled(groups: Mapping[str, Sequence[str]], count: int) -> dict[str, list[str]]:
    """Return at most `count` inspections, by product."""
    every = [(product, one) for product, ids in groups.items() for one in ids]
    chosen: dict[str, list[str]] = {}
    for product, one in random.sample(every, min(count, len(every))):
        chosen.setdefault(product, []).append(one)
    return chosen


if __name__ == "__main__":
    typer.run(main)
