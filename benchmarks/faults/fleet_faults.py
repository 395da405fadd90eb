"""Replicas behind HAProxy, on PostgreSQL and S3, with many products: kill, pause, restart and stop them under load.

    python -m benchmarks.faults.fleet_faults
    python -m benchmarks.faults.fleet_faults --replicas 4 --products 1000 --seconds 300

Clients send images of tiny products with an idempotency key each; the products follow a Zipf distribution. They send a
request again with the same key after a 503 and after a closed connection. Meanwhile a person changes recipes through
the proxy. In this order, spread over the duration: a replica is killed with SIGKILL and started again, another one is
stopped with SIGSTOP for `--pause` seconds, PostgreSQL is restarted, the port of the S3 server is closed for `--pause`
seconds, and a replica is replaced as in an upgrade: SIGTERM, then a new process. Afterwards the script checks:

- no response was a 5xx but 503, and no key was answered with two inspections;
- every inspection that was answered is stored, once, with its image, and nothing is stored twice;
- no inspection was judged by a recipe that is older than the newest one when its request was sent;
- a replay of `--replays` inspections (0: all) has the same result.

Prints JSON, with the share of the requests whose bundle was in memory. Exits with code 1 if a check fails.
`--setting NAME=VALUE` adds a setting of the replicas, such as `bundle_store=file:///FOLDER`.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import numpy as np
import typer
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, text

from benchmarks.many_products import record_self_tests
from service.deployment.memory_limits import memory_bytes
from service.inspection.runtime.configure import configure
from service.settings import Settings
from tests.bundles import write_tiny_bundle
from tests.postgres import PostgresServer, postgres_process
from tests.proxy import Proxy, proxy_process
from tests.running_service import GOOD
from tests.s3 import S3Server, s3_process
from tests.serving import ServiceProcess, service_process

IMAGE = {"content-type": "image/png"}
ZIPF = 1.1
CHANGE_S = 1.0
RETRY_S = 0.1
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "not-a-secret", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}


@dataclass
class Answer:
    """What was answered to a request: the product, the inspection, its recipe, and the newest one when it was sent."""

    product: str
    inspection: str
    revision: int
    newest: int


@dataclass
class Load:
    """The clients and the person who changes recipes.

    Attributes:
        answers: Answers by idempotency key.
        statuses: Responses by status.
        problems: 503 by the last part of their problem type.
        closed: Connections that were closed without a response.
        twice: Keys with two different inspections.
        revisions: Number of the newest recipe revision by product, once its change was answered.
        changes: Number of changes of recipes.
    """

    url: str
    products: Sequence[str]
    answers: dict[str, Answer] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    closed: int = 0
    twice: list[str] = field(default_factory=list)
    revisions: dict[str, int] = field(default_factory=dict)
    changes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, clients: int) -> None:
        """Start all clients."""
        weights = 1.0 / np.arange(1, len(self.products) + 1) ** ZIPF
        self._threads = [
            threading.Thread(target=self._inspect, args=(number, weights / weights.sum()), daemon=True)
            for number in range(clients)
        ]
        self._threads.append(threading.Thread(target=self._change_recipes, daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every client complete its request, and end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _inspect(self, number: int, weights: np.typing.NDArray[np.float64]) -> None:
        generator = np.random.default_rng(number)
        with httpx.Client(base_url=self.url, timeout=90) as client:
            while not self._stop.is_set():
                product = self.products[int(generator.choice(len(weights), p=weights))]
                self._inspect_one(client, product, str(uuid4()), is_repeated=generator.random() < 0.05)

    def _inspect_one(self, client: httpx.Client, product: str, key: str, *, is_repeated: bool) -> None:
        """Send a request until it is answered; `is_repeated`: once more although it was answered."""
        newest = self.revisions.get(product, 0)
        while True:
            response = self._send(client, product, key)
            if response is None or response.status_code == 503:
                time.sleep(RETRY_S)
                continue
            if response.status_code not in {200, 201}:
                return
            body = response.json()
            with self._lock:
                answer = self.answers.setdefault(key, Answer(product, body["id"], body["recipe_revision"], newest))
                if answer.inspection != body["id"]:
                    self.twice.append(key)
            if not is_repeated:
                return
            is_repeated = False

    def _send(self, client: httpx.Client, product: str, key: str) -> httpx.Response | None:
        headers = IMAGE | {"Idempotency-Key": key}
        try:
            response = client.post(f"/v1/products/{product}/inspections", content=GOOD, headers=headers)
        except httpx.TransportError:
            with self._lock:
                self.closed += 1
            return None
        with self._lock:
            self.statuses[response.status_code] += 1
            if response.status_code >= 400:
                self.problems[response.json()["type"].rpartition("#")[2]] += 1
        return response

    def _change_recipes(self) -> None:
        with httpx.Client(base_url=self.url, timeout=90) as client:
            while not self._stop.wait(CHANGE_S):
                product = random.choice(self.products[:10])
                with suppress(httpx.TransportError, KeyError):
                    url = f"/v1/products/{product}/recipe"
                    etag = client.get(url).headers["etag"]
                    threshold = round(random.uniform(5, 9), 3)
                    body = {"author": "a", "reason": "b", "fail_threshold": threshold, "review_threshold": 0.0}
                    response = client.put(url, json=body, headers={"if-match": etag})
                    if response.status_code == 200:
                        self.revisions[product] = response.json()["revision"]
                        self.changes += 1


class Fleet:
    """Replicas that can be started again on the same port.

    Args:
        models: The model repository.
        folder: Where the replicas have their data folders.
        settings: Settings of all replicas.
    """

    def __init__(self, models: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self._models, self._folder, self._settings = models, folder, settings
        self.stack = ExitStack()
        self.replicas: list[ServiceProcess] = []

    def start(self, number: int) -> None:
        """Start a replica, or start it again."""
        given = dict(self._settings)
        if number < len(self.replicas):
            given["port"] = str(urlsplit(self.replicas[number].url).port)
        data = self._folder / f"data-{number}"
        replica = self.stack.enter_context(service_process(self._models, data, given, _CREDENTIALS))
        self.replicas[number : number + 1] = [replica]
        replica.wait_until(200, timeout_s=300)


def disturb(fleet: Fleet, server: PostgresServer, s3: S3Server, seconds: float, pause_s: float) -> None:
    """Cause the faults, spread over the duration."""
    started = time.monotonic()

    def wait_until(share: float, what: str) -> None:
        time.sleep(max(0.0, started + share * seconds - time.monotonic()))
        typer.echo(f"{time.monotonic() - started:.0f} s: {what}", err=True)

    wait_until(0.1, "a replica is killed")
    fleet.replicas[0].kill()
    time.sleep(2)
    fleet.start(0)
    wait_until(0.3, "a replica is paused")
    fleet.replicas[1].process.send_signal(signal.SIGSTOP)
    time.sleep(pause_s)
    fleet.replicas[1].process.send_signal(signal.SIGCONT)
    wait_until(0.5, "PostgreSQL is restarted")
    server.stop(signal.SIGINT)
    server.start()
    wait_until(0.65, "the S3 server is stopped")
    s3.refuse()
    time.sleep(pause_s)
    s3.accept()
    wait_until(0.8, "a replica is replaced")
    fleet.replicas[1].terminate(timeout_s=120)
    fleet.start(1)
    wait_until(1.0, "end")


def hit_rate(replicas: Sequence[ServiceProcess]) -> float:
    """Return the share of the leases whose bundle was in memory, since the start of each replica."""
    found: Counter[str] = Counter()
    for replica in replicas:
        for family in text_string_to_metric_families(httpx.get(f"{replica.url}/metrics", timeout=30).text):
            for sample in family.samples:
                if sample.name == "inspection_bundle_leases_total":
                    found[sample.labels["result"]] += int(sample.value)
    return found["hit"] / max(1, found.total())


def check(load: Load, proxy: Proxy, database: str, replays: int) -> dict[str, Any]:
    """Return the findings; each is empty or 0 if nothing is wrong."""
    engine = create_engine(database)
    with engine.connect() as connection:
        stored = {row[0] for row in connection.execute(text("SELECT id FROM inspections"))}
        keys = {row[0]: row[1] for row in connection.execute(text("SELECT key, inspection_id FROM idempotency_keys"))}
    engine.dispose()
    answered = list(load.answers.values())
    chosen = answered if not replays else random.sample(answered, min(replays, len(answered)))
    different, missing = Counter[str](), 0
    with httpx.Client(base_url=proxy.url, timeout=90) as client:
        for answer in chosen:
            replayed = client.post(f"/v1/inspections/{answer.inspection}:replay").json()
            if replayed.get("outcome") != "same":
                different[str(replayed.get("outcome", replayed))] += 1
            missing += client.get(f"/v1/inspections/{answer.inspection}/image").status_code != 200
    return {
        "other statuses": sorted(set(load.statuses) - {200, 201, 503}),
        "keys with two inspections": len(load.twice),
        "answered and not stored": len({one.inspection for one in answered} - stored),
        "answered and stored under another key": sum(
            keys.get(key) != one.inspection for key, one in load.answers.items()
        ),
        "inspections without a key of their own": len(stored) - len(set(keys.values())),
        "judged by an old recipe": sum(one.revision < one.newest for one in answered),
        "replays that differ": dict(different),
        "images missing": missing,
    }


def main(
    replicas: Annotated[int, typer.Option(min=2, max=8, help="Number of replicas.")] = 2,
    products: Annotated[int, typer.Option(min=1, help="Number of products.")] = 100,
    cached: Annotated[float, typer.Option(help="Share of the products that fit into the memory of a replica.")] = 0.2,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 32,
    seconds: Annotated[float, typer.Option(min=30, help="Duration of the load.")] = 60.0,
    pause: Annotated[float, typer.Option(help="Seconds of a pause of a replica, and of the S3 server.")] = 10.0,
    replays: Annotated[int, typer.Option(help="Inspections to replay; 0 for all.")] = 200,
    setting: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, a further setting of the replicas.")] = None,
) -> None:
    """Disturb a fleet under load and check what it stored."""
    configure()
    os.environ |= _CREDENTIALS
    names = [f"product-{number:04d}" for number in range(products)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundles = [write_tiny_bundle(folder / "models", name) for name in names]
        for number in range(replicas):  # the graphs are the same, so one self-test of each is enough
            record_self_tests(bundles, folder / f"data-{number}", Settings(provider="cpu"))
        server = stack.enter_context(postgres_process(is_durable=True))
        s3 = stack.enter_context(s3_process())
        database = stack.enter_context(server.database())
        given = {
            "provider": "cpu",
            "threads": "1",
            "database_url": database,
            "database_connect_timeout_s": "2",
            "artefacts_url": f"s3://{s3.bucket()}/artefacts",
            "s3_endpoint_url": s3.url,
            "bundle_memory_bytes": str(int(cached * products * max(memory_bytes(one.manifest) for one in bundles))),
            "idle_timeout_s": "75",
            "shutdown_delay_s": "3",
        } | dict(one.split("=", 1) for one in setting or ())
        fleet = Fleet(folder / "models", folder, given)
        stack.enter_context(fleet.stack)
        for number in range(replicas):
            fleet.start(number)
        proxy = stack.enter_context(proxy_process([urlsplit(one.url).netloc for one in fleet.replicas]))
        proxy.wait_for_replicas(replicas)
        load = Load(proxy.url, names)
        load.start(clients)
        try:
            disturb(fleet, server, s3, seconds, pause)
        finally:
            load.stop()
        rate = hit_rate(fleet.replicas)
        proxy.wait_for_replicas(replicas)
        findings = check(load, proxy, database, replays)
        downs = re.findall(r"Server replicas/(\w+) is DOWN, reason: ([^,]+)", proxy.log.read_text())
    report = {
        "replicas": replicas,
        "products": products,
        "answered": len(load.answers),
        "per_second": round(len(load.answers) / seconds, 1),
        "statuses": dict(load.statuses),
        "problems": dict(load.problems),
        "closed_connections": load.closed,
        "recipe_changes": load.changes,
        "hit_rate": round(rate, 4),
        "marked_down": {f"{name}: {reason}": count for (name, reason), count in Counter(downs).items()},
        "findings": findings,
    }
    typer.echo(json.dumps(report, indent=2))
    if any(findings.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
