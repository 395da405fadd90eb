"""The deployment `Ingress`: the whole service, whose graphs run in the deployment `Inspector`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.ray_serve.arguments import Arguments
from service.settings import Settings

if TYPE_CHECKING:
    from service.app import Runtime

log = structlog.get_logger(__name__)
_POLL_S = 0.05


@serve.ingress()
class Ingress:
    """A replica of the service. Its settings are read from the environment of the replica.

    Args:
        inspector: Handle of the deployment that runs graphs.
        arguments: Arguments of the application.
    """

    def __init__(self, inspector: DeploymentHandle[Any], arguments: Arguments) -> None:
        self._inspector = inspector
        self._arguments = arguments

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application. Ray calls it when a replica starts, and runs the lifespan."""
        # Ray imports this module in further processes, which need neither FastAPI nor ONNX Runtime.
        from service.app import create_app
        from service.monitoring.logs import configure_logging
        from service.ray_serve.session import ray_engine
        from service.server import SWITCH_INTERVAL_S, ReportedStart

        settings = ingress_settings(self._arguments)
        configure_logging(settings)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        engine = ray_engine(self._inspector, settings, self._arguments.runs_per_graph)
        app = create_app(settings, engine)
        return BehindRay(ReportedStart(app), app, settings.self_test_timeout_s)


def ingress_settings(arguments: Arguments) -> Settings:
    """Return the settings of the service, with the host that Ray's proxy listens on.

    The service does not listen itself, so `PLUMBLINE_HOST` has no effect: whether a key is required must follow from
    who can reach the proxy.

    Raises:
        ValidationError: A setting is not valid.
    """
    host = "127.0.0.1" if arguments.loopback_only else "0.0.0.0"  # noqa: S104 - nothing is bound to it here
    return Settings().model_copy(update={"host": host})


class BehindRay:
    """The application as Ray's proxy needs it.

    A replica gets requests as soon as its start is complete, so the start includes the loading of bundles, up to a time
    limit. After that, `/health/ready` states that they are being loaded. Ray's proxy adds a header `X-Request-ID` to
    each response, with the id that the request had when it arrived here, so the service's own one would be the second.

    Args:
        app: The service, with what is around it.
        service: The service.
        loading_limit_s: Longest time for which the start waits for bundles, in seconds.
    """

    def __init__(self, app: ASGIApp, service: FastAPI, loading_limit_s: float) -> None:
        self._app = app
        self._service = service
        self._loading_limit_s = loading_limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the lifespan, a request or a stream."""

        async def send_start(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._wait_loaded()
            await send(message)

        async def send_response(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        senders = {"lifespan": send_start, "http": send_response}
        await self._app(scope, receive, senders.get(scope["type"], send))

    async def _wait_loaded(self) -> None:
        """Wait until all bundles are loaded, or take so long that the service does not wait for them.

        Without the limit, the start would not end while the database or all replicas of `Inspector` are not available,
        and no request could read the reason.
        """
        runtime: Runtime = self._service.state.runtime
        give_up = time.monotonic() + self._loading_limit_s
        while runtime.registry.loading:
            if time.monotonic() >= give_up:
                log.warning("bundles not loaded in time, the replica starts", limit_s=self._loading_limit_s)
                return
            await asyncio.sleep(_POLL_S)
