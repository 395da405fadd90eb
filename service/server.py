"""The process: uvicorn around the application, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
import sys
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from service.app import begin_drain, create_app, open_streams
from service.settings import Settings

SWITCH_INTERVAL_S = 0.0005
_LOOK_S = 0.02

log = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """Says "not ready" first, closes the port a moment later, and ends when the last answer is out.

    Closing the port at once would turn the images that a load balancer still sends into connection errors.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, delay_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._delay_s = delay_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            for server in self.servers:
                for listener in server.sockets:
                    log.info("listening", address=listener.getsockname()[0], port=listener.getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A first signal drains, a second one does not wait for the load balancer, a third for nothing."""
        self._signals += 1
        if self._signals == 1 and self._loop is not None and self.started:
            self._loop.call_soon_threadsafe(self._drain)
        elif self._signals <= 2:
            self.should_exit = True
        else:
            self.force_exit = True

    def _drain(self) -> None:
        begin_drain(self._app)
        assert self._loop is not None
        self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        """Close the port after the delay, and not before the streams were answered: the server would cut them off."""
        assert self._loop is not None
        give_up = self._loop.time() + self._delay_s + (self.config.timeout_graceful_shutdown or 0)
        await asyncio.sleep(self._delay_s)
        while open_streams(self._app) and self._loop.time() < give_up:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(_LOOK_S)
        self.should_exit = True


def run(settings: Settings) -> bool:
    """Serve until a signal comes.

    Returns:
        Whether the service ever started.
    """
    # A thread that waits for the interpreter gets it after so long. The default, 5 ms, is an age for the
    # event loop with several inspections in work: it would be late for every probe and every answer.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # structlog has the handlers
        access_log=False,  # the metrics count requests, the store has every inspection
        server_header=False,
        ws="websockets-sansio",  # reads one message at a time, which is what back-pressure needs
        ws_max_size=settings.max_body_bytes,
        ws_per_message_deflate=False,  # images are compressed already, and a bomb could be, too
        timeout_graceful_shutdown=int(settings.shutdown_timeout_s) or 1,
    )
    server = DrainingServer(config, app, settings.shutdown_delay_s)
    server.run()
    return server.started
