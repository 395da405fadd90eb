"""Kill the service under load, with idempotency keys and a webhook, on SQLite and on PostgreSQL.

    python -m benchmarks.faults.exactly_once
    python -m benchmarks.faults.exactly_once --kills 5 --database sqlite

Clients send images with a key each. After a connection broke, they send the same request again to the next process, as
a camera PC would. At the end of each campaign the script checks:

- every inspection that was answered is stored with image and map;
- no key was answered with two different inspections, and none is stored twice;
- the webhook received every stored inspection at least once;
- the database opens and passes its integrity check.

With PostgreSQL, the server is killed as well, in every second round. Exits with code 1 if a check fails.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

import httpx
import typer
from sqlalchemy import create_engine, text

from service.errors import PlumblineError
from service.store.artefacts.local import LocalFiles
from service.store.database import open_read_only_engine
from service.store.ids import parse_id
from service.store.inspections import get_inspection
from tests.bundles import write_tiny_bundle
from tests.postgres import PostgresServer, postgres_process
from tests.running_service import GOOD, INSPECT
from tests.service.integrations.receivers import Receiver, receive
from tests.serving import service_process

CLIENTS = 6
DELIVERY_S = 120.0
_SINKS = """
[[sink]]
name = "mes"
kind = "webhook"
url = "{url}"
"""


class Clients:
    """Clients that send images with keys until they are stopped, over restarts of the service.

    Attributes:
        answers: The inspections that were returned for each key.
        retried: Requests that were sent again after a broken connection.
        unexpected: Other statuses than 201 and 503.
    """

    def __init__(self) -> None:
        self.answers: dict[str, set[str]] = defaultdict(set)
        self.retried = 0
        self.unexpected: list[int] = []
        self._url = ""
        self._stop = threading.Event()
        self._is_abandoned = False
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]

    def start(self) -> None:
        """Start to send."""
        for thread in self._threads:
            thread.start()

    def use(self, url: str) -> None:
        """Send to another process from now on."""
        self._url = url

    def stop(self) -> None:
        """End the clients after their current request was answered."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def close(self) -> None:
        """End the clients, also if the service does not run, so that nothing can be answered."""
        self._is_abandoned = True
        self.stop()

    def _send(self) -> None:
        with httpx.Client(timeout=30) as client:
            self._send_with(client)

    def _send_with(self, client: httpx.Client) -> None:
        key: str | None = None
        while (key is not None or not self._stop.is_set()) and not self._is_abandoned:
            key = key or str(uuid4())
            headers = {"content-type": "image/png", "Idempotency-Key": key}
            try:
                response = client.post(self._url + INSPECT, content=GOOD, headers=headers)
            except httpx.TransportError:
                with self._lock:
                    self.retried += 1
                time.sleep(0.02)
                continue
            if response.status_code == 201:
                with self._lock:
                    self.answers[key].add(response.json()["id"])
                    # Some requests are sent again although they were answered.
                    key = key if random.random() < 0.1 and len(self.answers[key]) == 1 else None
            elif response.status_code == 503:
                time.sleep(0.05)
            else:
                self.unexpected.append(response.status_code)
                key = None


def campaign(folder: Path, kills: int, database: str, server: PostgresServer | None) -> list[str]:
    """Run the campaign on one database and return the checks that failed."""
    models, data = folder / "models", folder / "data"
    write_tiny_bundle(models)
    clients = Clients()
    with receive() as receiver, closing(clients):
        sinks = folder / "sinks.toml"
        sinks.write_text(_SINKS.format(url=receiver.url))
        settings = {"provider": "cpu", "sinks": str(sinks), "database_url": database}
        for number in range(kills + 1):
            with service_process(models, data, settings) as service:
                service.wait_until(200)
                clients.use(service.url)
                if number == 0:
                    clients.start()
                if number == kills:
                    time.sleep(0.5)
                    clients.stop()
                    wait_for_delivery(receiver, {one for found in clients.answers.values() for one in found})
                    break
                if number and number % 10 == 0:
                    typer.echo(f"{number} ", nl=False)
                time.sleep(random.uniform(0.02, 1.5))
                if server is not None and number % 2:
                    server.stop(signal.SIGQUIT)
                    server.start()
                    time.sleep(random.uniform(0, 0.2))
                service.kill()
        return check(clients, receiver, database or f"sqlite:///{data / 'plumbline.db'}", data)


def wait_for_delivery(receiver: Receiver, expected: set[str]) -> None:
    """Wait until the receiver has every expected inspection, or for a limited time."""
    deadline = time.monotonic() + DELIVERY_S
    while expected - delivered(receiver) and time.monotonic() < deadline:
        time.sleep(0.1)


def delivered(receiver: Receiver) -> set[str]:
    """Return the ids of the inspections that the receiver has."""
    return set(receiver.inspections())


def check(clients: Clients, receiver: Receiver, database: str, data: Path) -> list[str]:
    """Return the checks that failed, and print the figures."""
    answered = {one for found in clients.answers.values() for one in found}
    lost, files = [], LocalFiles(data / "inspections")
    engine = open_read_only_engine(database)
    for inspection in answered:
        try:
            record = get_inspection(engine, parse_id(inspection))
            files.image_of(record)
            files.map_of(record)
        except PlumblineError:
            lost.append(inspection)
    with engine.connect() as connection:
        stored = {row[0] for row in connection.execute(text("SELECT id FROM inspections"))}
        rows, keys, named = connection.execute(
            text("SELECT count(*), count(DISTINCT key), count(DISTINCT inspection_id) FROM idempotency_keys")
        ).one()
    engine.dispose()
    received = delivered(receiver)
    twice = [key for key, found in clients.answers.items() if len(found) > 1]
    failures = {
        f"lost: {len(lost)}": not lost,
        f"keys with two inspections: {len(twice)}": not twice,
        f"keys {keys}, rows {rows}, inspections of keys {named}, inspections {len(stored)}": rows
        == keys
        == named
        == len(stored),
        f"not delivered: {len(stored - received)}": stored <= received,
        f"statuses {sorted(set(clients.unexpected))}": not clients.unexpected,
        "integrity check": integrity(database) == "ok",
    }
    deliveries = len(receiver.requests)
    typer.echo(
        f"answered {len(answered)}, stored {len(stored)}, lost {len(lost)}, sent again {clients.retried}, "
        f"deliveries {deliveries}"
    )
    return [what for what, is_passed in failures.items() if not is_passed]


def integrity(database: str) -> str:
    """Return `ok` if the database passes its integrity check."""
    if not database.startswith("sqlite"):
        return "ok"  # the server recovered from its own log when it started
    engine = create_engine(database)
    with engine.connect() as connection:
        found = str(connection.execute(text("PRAGMA integrity_check")).scalar_one())
    engine.dispose()
    return found


@contextmanager
def opened(kind: str) -> Iterator[tuple[str, PostgresServer | None]]:
    """Yield the URL of an empty database, and its server if it has one."""
    if kind == "sqlite":
        yield "", None
        return
    with postgres_process(is_durable=True) as server, server.database() as url:
        yield url, server


def main(
    kills: Annotated[int, typer.Option(min=1, max=1000, help="Number of kills on each database.")] = 50,
    database: Annotated[Literal["both", "sqlite", "postgresql"], typer.Option(help="Databases.")] = "both",
    seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
) -> None:
    """Run the campaign."""
    random.seed(seed)
    failed = False
    for kind in ("sqlite", "postgresql") if database == "both" else (database,):
        with tempfile.TemporaryDirectory() as folder, opened(kind) as (url, server):
            typer.echo(f"{kind}, kill -9 x {kills}: ", nl=False)
            failures = campaign(Path(folder), kills, url, server)
        for failure in failures:
            typer.echo(f"  FAILED {failure}")
        failed |= bool(failures)
    sys.exit(failed)


if __name__ == "__main__":
    typer.run(main)
