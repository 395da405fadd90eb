"""What `benchmarks.replicas` and `benchmarks.faults.fleet_faults` compute from their measurements."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.connection import Connection
from benchmarks.faults.fleet_faults.checks import stored_findings
from benchmarks.faults.fleet_faults.disturbances import Disturbances
from benchmarks.faults.fleet_faults.fleet import hit_rate
from benchmarks.faults.fleet_faults.load import Clients, LoadPlan
from benchmarks.faults.fleet_faults.observed import Answer, Observed
from benchmarks.faults.fleet_faults.preparation import cache_limit, write_products
from benchmarks.faults.fleet_faults.routes import marked_down, sent_elsewhere
from benchmarks.replicas import added_interval


def test_added_time_is_taken_within_turns() -> None:
    generator = np.random.default_rng(1)
    other_load = generator.exponential(0.05, (200, 1))
    latencies = other_load + np.array([0.010, 0.012]) + generator.normal(0, 0.0001, (200, 2))
    median, low, high = added_interval(latencies, 1, 0)
    assert low <= median <= high
    assert median == pytest.approx(0.002, abs=0.0002)
    assert high - low < 0.0005, "other load cancels out"


class Scripted:
    """A server that sends prepared responses, one for each request, and closes the connection for None."""

    def __init__(self, *responses: tuple[int, dict[str, Any]] | None) -> None:
        self._responses = list(responses)
        self._ended: list[asyncio.Event] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.Event()
        self._ended.append(ended)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
                response = self._responses.pop(0)
                if response is None:
                    break
                body = json.dumps(response[1]).encode()
                writer.write(f"HTTP/1.1 {response[0]} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async def wait_ended(self) -> None:
        for ended in self._ended:
            await ended.wait()


def test_load_notices_what_a_fleet_must_not_do() -> None:
    """The first key gets two inspections, the second one an old recipe, after a 503 and a closed connection."""
    script = Scripted(
        (201, {"id": "a", "recipe_revision": 4}),
        (200, {"id": "b", "recipe_revision": 4}),
        (503, {"type": "about:blank"}),
        None,
        (201, {"id": "c", "recipe_revision": 3}),
        (502, {"type": "about:blank"}),
    )

    async def send() -> Observed:
        server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            clients = Clients(LoadPlan(port, ["product"], 1, is_warm=False), retry_s=0.0)
            clients.revisions["product"] = 4
            connection = Connection(port)
            await clients.inspect_one(connection, "product", b"", "one", is_repeated=True)
            clients.obey("measure")
            await clients.inspect_one(connection, "product", b"", "two", is_repeated=False)
            await clients.inspect_one(connection, "product", b"", "three", is_repeated=False)
            connection.close()
            await script.wait_ended()
        return clients.observed

    observed = asyncio.run(send())
    assert observed.twice == ["one"]
    assert [one.revision < one.newest for one in observed.answers.values()] == [False, True]
    assert [one.inspection for one in observed.measured] == ["c"]
    assert observed.statuses == Counter({201: 2, 200: 1, 503: 1, 502: 1})
    assert observed.closed == 1


def test_share_of_the_requests_that_were_sent_elsewhere(tmp_path: Path) -> None:
    log = tmp_path / "log"
    request = 'x replicas/{} 0/0/0/9/9 201 9 - - ---- 5/5/4/4/0 0/0 "POST /v1/products/{}/inspections HTTP/1.1"'
    sent = [("replica1", "bolt")] * 6 + [("replica2", "bolt")] * 2 + [("replica2", "nut")] * 2
    lines = [request.format(*one) for one in sent]
    lines += ["Server replicas/replica1 is DOWN, reason: Layer4 timeout, check duration: 1ms", "other"]
    log.write_text("\n".join(lines))
    assert sent_elsewhere(log) == 0.2
    assert marked_down(log) == {"replica1: Layer4 timeout": 1}
    log.write_text("")
    assert sent_elsewhere(log) == 0.0


def test_hit_rate_and_limit_of_the_cache(tmp_path: Path) -> None:
    assert hit_rate({"hits": 95, "misses": 5}) == 0.95
    assert hit_rate({}) is None
    bundles = write_products(tmp_path, ["bolt", "nut"])
    assert [one.manifest.product for one in bundles] == ["bolt", "nut"]
    assert cache_limit(bundles, 1.0) == 2**20, "the smallest limit"
    assert cache_limit(bundles * 400, 1.0) - cache_limit(bundles * 400, 0.0) > 400_000


def test_run_without_a_change_of_a_recipe_is_a_finding(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'stored.db'}"
    with sqlite3.connect(tmp_path / "stored.db") as connection:
        connection.execute("CREATE TABLE inspections (id TEXT)")
        connection.execute("CREATE TABLE idempotency_keys (key TEXT, inspection_id TEXT)")
        connection.execute("INSERT INTO inspections VALUES ('a')")
        connection.execute("INSERT INTO idempotency_keys VALUES ('one', 'a')")
    connection.close()
    observed = Observed()
    observed.add("one", Answer("bolt", "a", 1, 1, 0.1, is_measured=True))
    assert {name for name, found in stored_findings(observed, url).items() if found} == {"no recipe was changed"}
    observed.changes = 1
    assert not any(stored_findings(observed, url).values())
    observed.add("two", Answer("bolt", "b", 1, 2, 0.1, is_measured=True))
    found = {name for name, found in stored_findings(observed, url).items() if found}
    assert found == {"answered and not stored", "answered and stored under another key", "judged by an old recipe"}


def test_misses_are_counted_during_each_fault_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    misses = 0

    def cause(name: str) -> Any:
        def add(_self: Disturbances) -> None:
            nonlocal misses
            misses += len(name)

        return add

    class Counting:
        def total(self) -> dict[str, float]:
            nonlocal misses
            misses += 1
            return {"misses": float(misses)}

    for name in ("_kill", "_pause", "_restart_database", "_stop_s3", "_replace"):
        monkeypatch.setattr(Disturbances, name, cause(name))
    unused: Any = None
    disturbances = Disturbances(cast("Any", Counting()), unused, unused, 0.01, 0.0)
    disturbances.run()
    faults = {name: one["misses"] for name, one in disturbances.counted.items() if one["misses"] > 1}
    assert faults == {
        "a replica is killed and started again": 6,
        "a replica is paused": 7,
        "PostgreSQL is restarted": 18,
        "the S3 server is stopped": 9,
        "a replica is replaced": 9,
    }
    assert set(disturbances.counted) == {"undisturbed", *faults, *(f"after: {name}" for name in faults)}
    assert disturbances.lasted_s.keys() == disturbances.counted.keys()
    assert sum(disturbances.lasted_s.values()) <= disturbances.measured_s + 0.1 * len(faults)
