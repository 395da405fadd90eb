"""The load on a fleet: clients that inspect products of a Zipf distribution, and a person who changes recipes.

It runs in a process of its own, on plain sockets, so that it takes little of the processor time of the replicas. It
warms up the fleet first: one image of every product, the most frequent ones last, and then the load itself.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any
from uuid import uuid4

import numpy as np
import uvloop

from benchmarks.connection import Connection, Response
from benchmarks.faults.fleet_faults.observed import Answer, Observed
from tests.running_service import BAD, GOOD

ZIPF = 1.1
CHANGED = 10
"""The most frequent products, whose recipes are changed."""
_CHANGE_S = 1.0
_REPEATED = 0.05  # share of the requests that are sent again although they were answered
_TIMEOUT_S = 90.0
_END_S = 120.0
_RETRY_S = 0.1  # after a connection that was closed
_MAX_RETRY_S = 5.0


@dataclass(frozen=True)
class LoadPlan:
    """What is sent.

    Attributes:
        port: Port of the proxy on the loopback.
        products: The products, the most frequent one first.
        clients: Number of clients, each with one connection and an address of its own.
        is_warm: Whether the warm-up begins with one image of every product.
        period_s: Seconds between two images of a client, as of a camera; 0 sends the next one after the answer.
    """

    port: int
    products: Sequence[str]
    clients: int
    is_warm: bool = True
    period_s: float = 0.0


class FleetLoad:
    """The load, in a process of its own.

    Args:
        plan: What is sent.
    """

    def __init__(self, plan: LoadPlan) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(plan, other), daemon=True)
        self._process.start()
        other.close()

    @property
    def pid(self) -> int:
        """Id of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def wait_until_warm(self, timeout_s: float) -> None:
        """Wait until one image of every product was inspected.

        Raises:
            RuntimeError: The process failed, or it takes longer.
        """
        self._receive("warm", timeout_s)

    def begin_measuring(self) -> None:
        """Count the answers from now on as measured."""
        self._pipe.send("measure")

    def stop(self) -> Observed:
        """Let every client complete its request, and return what they observed.

        Raises:
            RuntimeError: The process failed.
        """
        self._pipe.send("stop")
        observed: Observed = self._receive(None, _END_S + _TIMEOUT_S)
        self._process.join()
        return observed

    def kill(self) -> None:
        """End the process, also if its result was not received."""
        self._process.kill()
        self._process.join()

    def _receive(self, expected: str | None, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                raise RuntimeError(f"the load generator did not report within {timeout_s:g} s")
            received = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("the load generator failed; its error is above") from error
        if expected is not None and received != expected:
            raise RuntimeError(f"the load generator reported {received!r}, not {expected!r}")
        return received


def _work(plan: LoadPlan, pipe: Pipe) -> None:
    uvloop.run(_run(plan, pipe))


async def _run(plan: LoadPlan, pipe: Pipe) -> None:
    clients = Clients(plan)
    asyncio.get_running_loop().add_reader(pipe.fileno(), lambda: clients.obey(pipe.recv()))
    async with asyncio.TaskGroup() as tasks:
        for number in range(plan.clients):
            tasks.create_task(clients.inspect(number))
        tasks.create_task(clients.change_recipes())
        await clients.warm.wait()
        pipe.send("warm")
    asyncio.get_running_loop().remove_reader(pipe.fileno())
    os.set_blocking(pipe.fileno(), True)  # the reader of the loop made it return early from what does not fit at once
    pipe.send(clients.observed)


class Clients:
    """The clients and the person who changes recipes, on one event loop.

    Args:
        plan: What is sent.
        retry_s: Seconds before a request is sent again whose connection was closed.

    Attributes:
        observed: What they observed so far.
        revisions: Number of the newest recipe revision by product, once its change was answered.
        warm: Set when one image of every product was inspected.
    """

    def __init__(self, plan: LoadPlan, retry_s: float = _RETRY_S) -> None:
        self.observed = Observed()
        self.revisions: dict[str, int] = {}
        self.warm = asyncio.Event()
        self._plan = plan
        self._retry_s = retry_s
        weights = 1.0 / np.arange(1, len(plan.products) + 1) ** ZIPF
        self._cumulated = np.cumsum(weights / weights.sum())
        self._unseen = deque(reversed(plan.products) if plan.is_warm else ())
        self._pending = len(self._unseen)
        self._is_measuring = False
        self._stopping = asyncio.Event()
        if not self._pending:
            self.warm.set()

    def obey(self, command: str) -> None:
        """Obey a command of the parent process: `measure` or `stop`."""
        if command == "measure":
            self._is_measuring = True
        else:
            self._stopping.set()
            self.warm.set()

    async def inspect(self, number: int) -> None:
        """Send images until the load is stopped."""
        generator = np.random.default_rng(number)
        connection = Connection(self._plan.port, f"127.40.0.{1 + number}")
        due = time.perf_counter() + generator.random() * self._plan.period_s
        while not self._stopping.is_set():
            is_first = bool(self._unseen)
            drawn = min(int(np.searchsorted(self._cumulated, generator.random())), len(self._plan.products) - 1)
            product = self._unseen.popleft() if is_first else self._plan.products[drawn]
            image = BAD if generator.random() < 0.5 else GOOD
            await self.inspect_one(connection, product, image, str(uuid4()), is_repeated=generator.random() < _REPEATED)
            if is_first:
                self._pending -= 1
                if not self._pending:
                    self.warm.set()
            else:
                # A camera whose image took longer than the period does not send the missed ones at once.
                due = max(due + self._plan.period_s, time.perf_counter())
                await self._wait_stopping(due - time.perf_counter())
        connection.close()

    async def inspect_one(
        self, connection: Connection, product: str, image: bytes, key: str, *, is_repeated: bool
    ) -> None:
        """Send a request until it is answered.

        Args:
            connection: The connection.
            product: Name of the product.
            image: The image, a PNG.
            key: The idempotency key of all attempts.
            is_repeated: Whether to send it once more although it was answered.
        """
        newest, started = self.revisions.get(product, 0), time.perf_counter()
        request = _request("POST", f"/v1/products/{product}/inspections", "image/png", image, f"Idempotency-Key: {key}")
        while True:
            response = await self._send(connection, request)
            if response is None or response.status == 503:
                await asyncio.sleep(self._pause_s(response))
                continue
            if response.status not in {200, 201}:
                return
            body = json.loads(response.body)
            seconds = time.perf_counter() - started
            answer = Answer(product, body["id"], body["recipe_revision"], newest, seconds, self._is_measuring)
            self.observed.add(key, answer)
            if not is_repeated:
                return
            is_repeated = False

    async def change_recipes(self) -> None:
        """Change recipes of frequent products until the load is stopped."""
        connection = Connection(self._plan.port, "127.41.0.1")
        while not self._stopping.is_set():
            product = random.choice(self._plan.products[:CHANGED])
            path = f"/v1/products/{product}/recipe"
            found = await self._exchange(connection, _request("GET", path))
            if found is not None and found.status == 200:
                threshold = round(random.uniform(0.3, 0.7), 3)  # of the two images, one scores 0.002 and one 0.498
                recipe = {"author": "a", "reason": "b", "fail_threshold": threshold, "review_threshold": 0.0}
                etag = f"If-Match: {found.headers[b'etag'].decode()}"
                change = _request("PUT", path, "application/json", json.dumps(recipe).encode(), etag)
                changed = await self._exchange(connection, change)
                if changed is not None and changed.status == 200:
                    self.revisions[product] = json.loads(changed.body)["revision"]
                    self.observed.changes += 1
            await self._wait_stopping(_CHANGE_S)
        connection.close()

    async def _wait_stopping(self, timeout_s: float) -> None:
        if timeout_s <= 0:
            return
        try:
            await asyncio.wait_for(self._stopping.wait(), timeout_s)
        except TimeoutError:
            return

    async def _send(self, connection: Connection, request: bytes) -> Response | None:
        """Send a request, and count its response. Return None if the connection was closed."""
        response = await self._exchange(connection, request)
        if response is None:
            self.observed.closed += 1
        else:
            self.observed.add_status(response.status, json.loads(response.body) if response.status >= 400 else None)
        return response

    @staticmethod
    async def _exchange(connection: Connection, request: bytes) -> Response | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await connection.exchange(request)
        except (OSError, EOFError, TimeoutError):
            connection.close()
            return None

    def _pause_s(self, response: Response | None) -> float:
        """Return the seconds after which a request is sent again: those that the service asks for."""
        if response is None:
            return self._retry_s
        return min(_MAX_RETRY_S, float(response.headers.get(b"retry-after", self._retry_s)))


def _request(method: str, path: str, media_type: str = "", body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    if media_type:
        lines.append(f"Content-Type: {media_type}")
    return "\r\n".join([*lines, "", ""]).encode() + body
