"""The server process: uvicorn with draining on shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.errors import AccessNotConfigured
from service.api.http.certificates import CertificateFiles, CertificateReloader, CertificateUnusable
from service.api.http.connections import ConnectionLimits, Connections
from service.api.http.http_protocol import HttpProtocol
from service.api.http.stream_protocol import StreamProtocol
from service.api.http.tls_protocol import TlsProtocol
from service.app import begin_drain, create_app, open_streams
from service.errors import CannotStart, PlumblineError
from service.integrations.errors import SinksInvalid
from service.settings import Settings

SWITCH_INTERVAL_S = 0.0005
PORT_REMEDY = "Stop the process that listens on the port (a running plumbline?), or set another PLUMBLINE_PORT."
STARTUP_FAILED = "lifespan.startup.failed"
_POLL_S = 0.02
# Seconds at shutdown for the TLS handshakes in progress; the server only waits for requests.
_HANDSHAKES_END_S = 1.0
_RELOAD_TICKS = 20  # of a tenth of a second
# Seconds that remain to close everything after the accepted inspections had their time.
EXIT_GRACE_S = 10.0

log = structlog.get_logger(__name__)


class ReportedStart:
    """An ASGI application that logs why the application cannot start, as one sentence where the reason is known.

    Starlette reports every error with its traceback. A store that is in use or damaged is not an error of the program.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on to the application, except the traceback of an expected error at the start."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failed: list[Message] = []

        async def hold_failure(message: Message) -> None:
            if message["type"] == STARTUP_FAILED:
                failed.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, hold_failure)
        except (PlumblineError, SinksInvalid, AccessNotConfigured, CannotStart, OSError) as error:
            if not failed:
                raise
            log.error("cannot start", reason=_start_failure(error))
            await send({"type": STARTUP_FAILED})
        except BaseException:
            for message in failed:
                await send(message)
            raise


def _start_failure(error: PlumblineError | SinksInvalid | AccessNotConfigured | CannotStart | OSError) -> str:
    if not isinstance(error, OSError):
        return error.detail
    return f"{error.filename or 'The system'}: {error.strerror or 'unknown error'}. Check permissions and the disk."


class DrainingServer(uvicorn.Server):
    """A server with limited connections that stops without breaking one.

    On shutdown it reports not ready, closes the port after a delay, and completes requests in flight. If the port were
    closed immediately, images that a load balancer still sends would fail with connection errors.

    Args:
        app: The application.
        settings: The settings.

    Attributes:
        connections: All open connections.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.connections = Connections(
            ConnectionLimits.from_settings(settings), app.state.metrics, app.state.body_memory
        )
        # uvicorn accepts any factory, although it declares classes.
        http: Any = partial(HttpProtocol, connections=self.connections)
        self._handshakes: set[TlsProtocol] = set()
        ws: Any = partial(StreamProtocol, connections=self.connections)
        self._certificate = CertificateFiles.from_settings(settings)
        self._reloader: CertificateReloader | None = None
        self._app = app
        super().__init__(
            uvicorn.Config(
                ReportedStart(app),
                host=settings.host,
                port=settings.port,
                log_config=None,  # structlog configures the handlers
                access_log=False,  # metrics count the requests, the store has every inspection
                server_header=False,
                http=http,
                ws=ws,
                ssl_context_factory=None if self._certificate is None else self._make_tls_context,
                ws_max_size=settings.max_body_bytes,
                ws_per_message_deflate=False,  # images are compressed already; also prevents decompression bombs
                timeout_graceful_shutdown=int(settings.shutdown_timeout_s) or 1,
            )
        )
        self._delay_s = settings.shutdown_delay_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server and log the address it listens on."""
        self._loop = asyncio.get_running_loop()
        if self.config.ssl is not None:
            # `TlsProtocol` makes the handshakes.
            self.config.http_protocol_class = partial(  # type: ignore[assignment]  # as above
                TlsProtocol, connections=self.connections, context=self.config.ssl, handshakes=self._handshakes
            )
            self.config.ssl = None
        try:
            await super().startup(sockets)
        except SystemExit as error:
            # uvicorn logs the error of the operating system and exits; what to do about it is missing.
            if isinstance(error.__context__, OSError):
                address = f"{self.config.host}:{self.config.port}"
                log.error("port not available", address=address, reason=error.__context__.strerror, remedy=PORT_REMEDY)
            raise
        if self.started:
            for server in self.servers:
                for listener in server.sockets:
                    address, port = listener.getsockname()[:2]
                    log.info("listening", address=address, port=port, scheme="https" if self.config.is_ssl else "http")

    async def on_tick(self, counter: int) -> bool:
        """Look for a changed certificate every few seconds; uvicorn calls this ten times per second."""
        if self._reloader is not None and counter % _RELOAD_TICKS == 0:
            await asyncio.to_thread(self._reloader.check)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, complete the requests in flight, and close all connections."""
        begin_drain(self._app)
        self.connections.drain()
        accepted = self._accept_waiting()
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            with contextlib.suppress(OSError):  # the client has gone
                await loop.connect_accepted_socket(self._make_protocol, connection)
        give_up = loop.time() + _HANDSHAKES_END_S
        while self._handshakes and loop.time() < give_up:  # noqa: ASYNC110 - runs once, at shutdown
            await asyncio.sleep(_POLL_S)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain on the first signal, skip the delay on the second, exit immediately on the third."""
        self._signals += 1
        if self._signals == 1 and self._loop is not None and self.started:
            self._loop.call_soon_threadsafe(self._drain)
        elif self._signals <= 2:
            self.should_exit = True
        else:
            self.force_exit = True

    def _drain(self) -> None:
        limit_s = self._delay_s + (self.config.timeout_graceful_shutdown or 0) + EXIT_GRACE_S
        watchdog = threading.Timer(limit_s, _exit_at_once)
        watchdog.daemon = True
        watchdog.start()
        begin_drain(self._app)
        self.connections.drain()
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        """Close the port after the delay and after all streams ended, because uvicorn would cut them off."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._delay_s + (self.config.timeout_graceful_shutdown or 0)
        await asyncio.sleep(self._delay_s)
        while open_streams(self._app) and loop.time() < give_up:  # noqa: ASYNC110 - runs once, at shutdown
            await asyncio.sleep(_POLL_S)
        self.should_exit = True

    def _make_tls_context(self, config: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:  # noqa: ARG002
        assert self._certificate is not None
        self._reloader = CertificateReloader(self._certificate, self._app.state.metrics)
        return self._reloader.context

    def _accept_waiting(self) -> list[socket.socket]:
        """Accept the connections that wait in the queue of the kernel; closing the port would reset them."""
        accepted = []
        for listener in [listener for server in self.servers for listener in server.sockets]:
            with socket.socket(fileno=socket.dup(listener.fileno())) as waiting, contextlib.suppress(OSError):
                waiting.setblocking(False)  # the same file description: does not change the listener
                while True:
                    connection, _ = waiting.accept()
                    connection.setblocking(False)
                    accepted.append(connection)
        return accepted

    def _make_protocol(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        made: asyncio.Protocol = protocol(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )
        return made


def _exit_at_once() -> None:
    """End the process although something still runs, for example native code that hangs."""
    log.error("the service did not stop in time and is ended")
    os._exit(1)


def run(settings: Settings) -> bool:
    """Serve until a signal arrives.

    Args:
        settings: The settings.

    Returns:
        Whether the service started.
    """
    # How long a thread may hold the interpreter while others wait. With the default of 5 ms and several inspections in
    # flight, the event loop would respond late to probes and requests.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    app = create_app(settings)
    server = DrainingServer(app, settings)
    try:
        server.config.load()  # fails here if the certificate cannot be used, before the store is opened
    except CertificateUnusable as error:
        log.error("cannot start", reason=error.reason, remedy=error.remedy)
        return False
    try:
        server.run()
    except SystemExit:  # uvicorn's way to report that it could not start, with an exit code of its own
        return False
    return server.started
