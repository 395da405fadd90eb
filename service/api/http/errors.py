"""Failures of HTTP itself: unknown paths, methods, media types, slow clients, unexpected exceptions."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import PlumblineError


class RouteNotFound(PlumblineError):
    """The service has no endpoint at this path. `/openapi.json` lists all endpoints."""

    slug = "not-found"
    title = "No such endpoint"
    status = 404

    def __init__(self, path: str) -> None:
        slash = " Remove the slash at the end." if len(path) > 1 and path.endswith("/") else ""
        super().__init__(f"The service has no endpoint at {path}.{slash} GET /openapi.json lists all endpoints.")


class MethodNotAllowed(PlumblineError):
    """The endpoint exists but does not support the method. The `Allow` header and `allowed` list the methods."""

    slug = "method-not-allowed"
    title = "Method not allowed"
    status = 405

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(
            f"This endpoint does not support {method}. Use: {allowed or 'another endpoint'}.", allowed=allowed
        )


class NotAcceptable(PlumblineError):
    """The response is not available in any format of the `Accept` header. `offers` lists the available formats."""

    slug = "not-acceptable"
    title = "No acceptable representation"
    status = 406

    def __init__(self, accept: str, offers: Sequence[str]) -> None:
        super().__init__(
            f"The response is not available as {accept!r}. Request one of: {', '.join(offers)}.", offers=list(offers)
        )


class RequestTimeout(PlumblineError):
    """The request body did not arrive in time, so the service freed its place in the queue and closed the connection.

    Check the network, or raise `PLUMBLINE_BODY_TIMEOUT_S`.
    """

    slug = "request-timeout"
    title = "Request body arrived too slowly"
    status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The request body was not complete after {seconds:g} s. Check the network, send a smaller image, or "
            "raise PLUMBLINE_BODY_TIMEOUT_S."
        )


class InternalError(PlumblineError):
    """The service failed unexpectedly and returned no verdict.

    The response contains no internal details. Search the log for the request id in `instance` (also in the
    `X-Request-ID` header) and report the failure.
    """

    slug = "internal-error"
    title = "Internal error"
    status = 500

    def __init__(self) -> None:
        super().__init__(
            "The service failed unexpectedly and returned no verdict. Search the log for the request id in `instance` "
            "and report the failure."
        )
