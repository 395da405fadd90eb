"""The thread of the OPC UA server. It has an event loop of its own, so that a client never delays an inspection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from concurrent.futures import Future
from datetime import datetime

import structlog
from asyncua import ua
from asyncua.common.connection import TransportLimits

from service.errors import CannotStart
from service.integrations.opcua.guard import GuardedServer
from service.integrations.opcua.nodes import AddressSpace
from service.integrations.opcua.options import OpcuaOptions, port_unusable
from service.integrations.opcua.state import ReadState
from service.integrations.opcua.stations import StationBoard
from service.monitoring.opcua_metrics import OpcuaMetrics
from service.version import VERSION

log = structlog.get_logger(__name__)

START_S = 60.0
STOP_S = 3.0
FLUSH_S = 0.5
"""Seconds in which clients receive the last changes before their connections are closed."""
CHECK_S = 0.5
"""Seconds between two checks of the service's readiness and of the clients."""
MAX_UNSENT_BYTES = 4 * 2**20
"""Responses that a client has not read yet, in bytes, beyond which its connection is closed."""
_MAX_MESSAGE_BYTES = 2**20
_BUFFER_BYTES = 65_535
_ACTIVATION_S = 10.0
_MAX_SUBSCRIPTIONS_PER_CLIENT = 10
_MAX_QUEUE = 1000
_CLOSE_S = 0.02
_LOGGED_PER_MINUTE = 10
_Policy = ua.SecurityPolicyType
_SECURE = [
    _Policy.Basic256Sha256_SignAndEncrypt,
    _Policy.Basic256Sha256_Sign,
    _Policy.Aes128Sha256RsaOaep_SignAndEncrypt,
    _Policy.Aes256Sha256RsaPss_SignAndEncrypt,
]


class OpcuaServer:
    """An OPC UA server in a thread.

    Args:
        options: The options.
        board: The stations.
        read_state: Returns the state of the service; fast, callable by any thread.
        metrics: Counts clients.
    """

    def __init__(
        self, options: OpcuaOptions, board: StationBoard, read_state: ReadState, metrics: OpcuaMetrics
    ) -> None:
        self._options = options
        self._board = board
        self._read_state = read_state
        self._metrics = metrics
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._port: Future[int] = Future()
        self._thread = threading.Thread(target=self._work, name="opcua", daemon=True)
        board.on_change = lambda: self._call(self._changed.set)

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._port.result(0)

    def start(self) -> None:
        """Start the thread and wait until the endpoint is open.

        Raises:
            CannotStart: The endpoint cannot be opened.
        """
        _limit_logs()
        self._thread.start()
        try:
            port = self._port.result(START_S)
        except TimeoutError as error:  # before OSError, which is its base class
            raise CannotStart(
                f"the OPC UA endpoint {self._options.endpoint} was not opened within {START_S:g} seconds",
                "Start the service again.",
            ) from error
        except OSError as error:
            raise port_unusable(self._options, error) from error
        log.info("opcua listening", host=self._options.host, port=port)

    def close(self) -> None:
        """Close all connections and end the thread, within a limited time."""
        self._call(self._stop.set)
        self._thread.join(2 * STOP_S)
        if self._thread.is_alive():
            log.warning("opcua not stopped in time")

    def _call(self, action: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(action)  # type: ignore[arg-type]

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except Exception as error:  # reported by `start`, or logged
            if self._port.done():
                log.exception("opcua stopped")
            else:
                self._port.set_exception(error)
        finally:
            with contextlib.suppress(Exception):
                for task in asyncio.all_tasks(self._loop):
                    task.cancel()
                self._loop.run_until_complete(asyncio.sleep(0))
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _run(self) -> None:
        server = await self._make_server()
        space = AddressSpace(server, self._board, self._read_state)
        await space.create()
        await self._write_changes(space)
        await server.start()
        assert server.bserver is not None
        clients = server.bserver.clients
        self._metrics.clients.set_function(lambda: float(len(clients)))
        self._port.set_result(server.bserver.port)
        try:
            await self._serve(server, space)
        finally:
            # The clock of asyncua would sleep for up to a second.
            if (clock := server.iserver.time_task) is not None:
                clock.cancel()
                server.iserver.time_task = None
            for client in list(clients):
                if client.transport is not None:
                    client.transport.abort()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.stop(), STOP_S)
            # asyncua schedules the close of its sockets and does not wait for it.
            await asyncio.sleep(_CLOSE_S)

    async def _serve(self, server: GuardedServer, space: AddressSpace) -> None:
        next_check = 0.0
        while not self._stop.is_set():
            if (now := time.monotonic()) >= next_check:
                next_check = now + CHECK_S
                await space.refresh()
                self._close_unread(server)
            await self._write_changes(space)
            waits = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(self._stop.wait())]
            try:
                timeout_s = max(0.0, next_check - time.monotonic())
                await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if await self._write_changes(space) and server.bserver is not None and server.bserver.clients:
            await asyncio.sleep(FLUSH_S)

    async def _write_changes(self, space: AddressSpace) -> bool:
        """Write the stations that changed. Return whether there were any."""
        self._changed.clear()
        changed = self._board.take_changed()
        for name, snapshot in changed:
            try:
                await space.update(name, snapshot)
            except Exception:
                log.exception("station not updated", station=name)
        return bool(changed)

    def _close_unread(self, server: GuardedServer) -> None:
        """Close connections of clients that request more than they read: the rest would fill the memory."""
        assert server.bserver is not None
        for client in list(server.bserver.clients):
            transport = client.transport
            if transport is not None and transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
                self._metrics.closed.inc()
                log.warning("opcua client closed because it does not read", client=str(client.peer_name))
                transport.abort()

    async def _make_server(self) -> GuardedServer:
        options = self._options
        server = GuardedServer(options, self._metrics.refused_logins.inc)
        server.limits = TransportLimits(
            max_recv_buffer=_BUFFER_BYTES,
            max_send_buffer=_BUFFER_BYTES,
            max_chunk_count=_MAX_MESSAGE_BYTES // _BUFFER_BYTES + 1,
            max_message_size=_MAX_MESSAGE_BYTES,
        )
        inner = server.iserver
        inner.max_connections = options.max_clients
        inner.max_pending_activation_seconds = _ACTIVATION_S
        inner.max_subscriptions = options.max_clients * _MAX_SUBSCRIPTIONS_PER_CLIENT
        inner.max_monitored_item_queue_size = _MAX_QUEUE
        inner.allow_remote_admin = False
        await server.init()
        server.set_endpoint(options.endpoint)
        server.set_server_name("Plumbline")
        server.manufacturer_name, server.product_uri = "Plumbline", "urn:plumbline:service"
        server.application_type = ua.ApplicationType.Server
        await server.set_application_uri(options.application_uri)
        await server.set_build_info(
            server.product_uri,
            server.manufacturer_name,
            server.name,
            VERSION,
            "",
            datetime.now(),  # noqa: DTZ005
        )
        if options.identity is None:
            server.set_security_policy([_Policy.NoSecurity])
        else:
            inner.certificate, inner.private_key = options.identity.certificate, options.identity.key
            server.set_security_policy(_SECURE)
        server.set_identity_tokens([ua.UserNameIdentityToken if options.user else ua.AnonymousIdentityToken])
        return server


class _LimitedLog(logging.Handler):
    """Passes a few messages of asyncua per minute on. A client could cause any number of them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._minute, self._count = 0.0, 0

    def emit(self, record: logging.LogRecord) -> None:
        minute = time.monotonic() // 60
        if minute != self._minute:
            self._minute, self._count = minute, 0
        self._count += 1
        if self._count <= _LOGGED_PER_MINUTE:
            log.warning("opcua", message=record.getMessage(), module=record.name)


def _limit_logs() -> None:
    logger = logging.getLogger("asyncua")
    logger.setLevel(logging.WARNING)
    logger.handlers, logger.propagate = [_LimitedLog()], False
