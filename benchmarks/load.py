"""Load generator: clients on plain sockets, in a process of their own, so that they take little processor time.

A client has one connection and sends the same image again and again. It is named by its source address: the service
shares its capacity between addresses if it has no keys. The addresses are all in the loopback network.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import cv2
import httpx
import numpy as np
import uvloop

from benchmarks.connection import Connection
from service.bundle.bundle import Bundle, bundle_folders
from tests.serving import ServiceProcess

_TIMEOUT_S = 60.0
_GENERATOR_EXTRA_S = 30.0
_IMAGE_SIZE = 1024


def good_jpeg(
    models: Path, product: str, image_wh: tuple[int, int] = (_IMAGE_SIZE, _IMAGE_SIZE), noise: float = 0.0
) -> bytes:
    """Return a golden sample of the product's bundle as a JPEG.

    A synthetic texture would be rejected by the quality check, so the graph would not run.

    Args:
        models: Model repository.
        product: The product.
        image_wh: Width and height of the image in pixels.
        noise: Standard deviation of the noise of each pixel, in gray levels. An enlarged sample without it is smoother
            than the image of a camera, so fewer bytes have to be decoded.
    """
    golden = Bundle.load(bundle_folders((models / product).absolute())[0]).golden[0].image
    pixels = cv2.resize(golden, image_wh, interpolation=cv2.INTER_CUBIC)[..., ::-1]
    if noise:
        drawn = np.random.default_rng(0).normal(0, noise, pixels.shape)
        pixels = np.clip(np.rint(pixels + drawn), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def inspection_head(product: str, body: bytes) -> bytes:
    """Return the request that posts a JPEG, up to its body."""
    lines = (
        f"POST /v1/products/{product}/inspections HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: image/jpeg",
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def require_judged(service: ServiceProcess, product: str, image: bytes) -> None:
    """Check that the service judges an image.

    Raises:
        RuntimeError: The quality check rejects it, so a benchmark with it would not run the graph.
    """
    path = f"{service.url}/v1/products/{product}/inspections"
    verdict = httpx.post(path, content=image, headers={"content-type": "image/jpeg"}, timeout=60).json()
    if verdict["score"] is None:
        raise RuntimeError(f"The image is rejected: {verdict['invalid_reasons']}. Choose another one with --image.")


@dataclass(frozen=True)
class Group:
    """Clients that behave in the same way.

    Attributes:
        name: Name of the group in the results.
        clients: Number of clients, each with one connection.
        address: Second number of their addresses, `127.<address>.0.1` and so on.
        obeys: Whether a refused client waits for `Retry-After`; otherwise it sends the image again at once.
        share_address: Whether all clients of the group have the same address.
    """

    name: str
    clients: int
    address: int
    obeys: bool
    share_address: bool = False

    def source(self, number: int) -> str:
        """Return the source address of a client."""
        return f"127.{self.address}.0.{1 if self.share_address else 1 + number}"


@dataclass
class Outcome:
    """What the clients of a group observed in the measured time.

    Attributes:
        latencies_s: Seconds from the first byte sent to the last byte received, of admitted requests.
        refused: Number of 503 responses with `Retry-After`.
        refused_s: Seconds until these responses.
        others: Number of every other event, by its description.
    """

    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    refused_s: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@dataclass
class Load:
    """The result of one run of the load generator.

    Attributes:
        outcomes: What each group observed, by its name.
        seconds: Duration of the measured time.
        cpu_s: Processor time of the load generator meanwhile.
    """

    outcomes: dict[str, Outcome]
    seconds: float
    cpu_s: float


class RunningLoad:
    """A load generator in a process of its own.

    Args:
        port: Port of the service on the loopback interface.
        head: The request up to its body, including the empty line.
        body: The body.
        groups: The clients.
        warm_up_s: Seconds before the measured time.
        seconds: Measured time.
    """

    def __init__(
        self, port: int, head: bytes, body: bytes, groups: Sequence[Group], warm_up_s: float, seconds: float
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        self._limit_s = warm_up_s + seconds + _TIMEOUT_S + _GENERATOR_EXTRA_S
        self._process = context.Process(
            target=_generate, args=(port, head + body, tuple(groups), warm_up_s, seconds, sender), daemon=True
        )
        self._process.start()
        sender.close()

    def wait_for(self, event: str) -> None:
        """Wait until the measured time begins ("begin") or ends ("end").

        Raises:
            RuntimeError: The load generator failed.
        """
        if not self._receiver.poll(self._limit_s) or self._receiver.recv() != event:
            raise RuntimeError(f"the load generator did not report {event!r}")

    def result(self) -> Load:
        """Return the result after the end."""
        load: Load = self._receiver.recv()
        self._process.join()
        return load


def _generate(
    port: int, request: bytes, groups: Sequence[Group], warm_up_s: float, seconds: float, parent: Pipe
) -> None:
    parent.send(uvloop.run(_run(port, request, groups, warm_up_s, seconds, parent)))


async def _run(
    port: int, request: bytes, groups: Sequence[Group], warm_up_s: float, seconds: float, parent: Pipe
) -> Load:
    outcomes = {group.name: Outcome() for group in groups}
    begin = time.perf_counter() + warm_up_s
    clients = [
        _Client(port, request, group.source(number), outcomes[group.name], (begin, begin + seconds), obeys=group.obeys)
        for group in groups
        for number in range(group.clients)
    ]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    await asyncio.sleep(warm_up_s)
    parent.send("begin")
    cpu_before = time.process_time()
    await asyncio.sleep(seconds)
    cpu_s = time.process_time() - cpu_before
    parent.send("end")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Load(outcomes, seconds, cpu_s)


class _Client:
    def __init__(
        self, port: int, request: bytes, source: str, outcome: Outcome, window: tuple[float, float], *, obeys: bool
    ) -> None:
        self._connection = Connection(port, source)
        self._request = request
        self._outcome = outcome
        self._window = window
        self._obeys = obeys

    async def run(self) -> None:
        """Send requests until the task is cancelled."""
        try:
            while True:
                started = time.perf_counter()
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        response = await self._connection.exchange(self._request)
                except (OSError, EOFError, TimeoutError) as error:
                    self._count(f"{type(error).__name__}", started, None)
                    self._connection.close()
                    await asyncio.sleep(0.1)
                    continue
                status = response.status
                if status == 503 and b"retry-after" in response.headers:
                    self._count("refused", started, status)
                    if self._obeys:
                        await asyncio.sleep(float(response.headers[b"retry-after"]))
                else:
                    self._count(f"status {status}", started, status)
        finally:
            self._connection.close()

    def _count(self, event: str, started: float, status: int | None) -> None:
        now = time.perf_counter()
        if not self._window[0] <= now < self._window[1]:
            return
        if status == 201:
            self._outcome.latencies_s.append(now - started)
        elif event == "refused":
            self._outcome.refused += 1
            self._outcome.refused_s.append(now - started)
        else:
            self._outcome.others[event] += 1
