"""Receivers for tests: a real HTTP server, and a sink whose outcomes a test chooses."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from service.integrations.delivery import Attempt, Event


@dataclass
class Reply:
    """What the HTTP server does with a request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    body: bytes = b""


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


class Receiver:
    """An HTTP server in a thread. `replies` are used once each; after them, every request gets `default`."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.default = Reply()
        self.decide: Callable[[Request], Reply | None] = lambda _request: None
        self.port = server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}/hook"
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    def reply(self, request: Request) -> Reply:
        with self.lock:
            self.requests.append(request)
            chosen = self.decide(request)
            if chosen is not None:
                return chosen
            return self.replies.pop(0) if self.replies else self.default

    def events(self) -> list[dict[str, Any]]:
        with self.lock:
            return [request.event for request in self.requests]

    def inspections(self) -> list[str]:
        return [event["inspection"]["id"] for event in self.events()]

    def wait_for(self, count: int, timeout_s: float = 20) -> None:
        wait_for(lambda: len(self.requests) >= count, timeout_s)


@contextmanager
def receive(port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run an HTTP server until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length)
            if len(body) < length:  # the service was killed
                self.close_connection = True
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = receiver.reply(Request(self.path, headers, body))
            if reply.delay_s:
                receiver.stopped.wait(reply.delay_s)
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
            except OSError:  # the service has given up
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", port), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(server, "http" if context is None else "https")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


def wait_for(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


class FakeSink:
    """A sink that records events, and whose outcomes a test chooses."""

    def __init__(self) -> None:
        self.target = "fake://receiver"
        self.events: list[Event] = []
        self.delivered: list[str] = []
        self.outcome: Callable[[Event], Attempt] = lambda _event: Attempt("delivered")
        self.delay_s = 0.0
        self.on_available: Callable[[], None] = lambda: None
        self.opened = self.closed = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    async def open(self, on_available: Callable[[], None]) -> None:
        self.on_available = on_available
        self.loop = asyncio.get_running_loop()
        self.opened += 1

    def become_available(self) -> None:
        """Report that the receiver is reached again. Callable by any thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.on_available)

    async def deliver(self, event: Event) -> Attempt:
        self.events.append(event)
        await asyncio.sleep(self.delay_s)
        attempt = self.outcome(event)
        if attempt.result == "delivered":
            self.delivered.append(json.loads(event.body)["inspection"]["id"])
        return attempt

    async def close(self) -> None:
        self.closed += 1
