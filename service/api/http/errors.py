"""Failures of the HTTP conversation itself; all others come from the core."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import PlumblineError


class RouteNotFound(PlumblineError):
    slug = "not-found"
    title = "Nothing is here"
    status = 404

    def __init__(self, path: str) -> None:
        super().__init__(f"There is nothing at {path}. GET /openapi.json lists every address.")


class MethodNotAllowed(PlumblineError):
    slug = "method-not-allowed"
    title = "Method not allowed"
    status = 405

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not possible here. Use: {allowed or 'another address'}.", allowed=allowed)


class NotAcceptable(PlumblineError):
    slug = "not-acceptable"
    title = "No acceptable representation"
    status = 406

    def __init__(self, accept: str, offers: Sequence[str]) -> None:
        super().__init__(
            f"The answer cannot be given as {accept!r}. Ask for one of: {', '.join(offers)}.", offers=list(offers)
        )


class RequestTimeout(PlumblineError):
    slug = "request-timeout"
    title = "Request body arrived too slowly"
    status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The request body was not complete after {seconds:g} s. Check the network, send a smaller image, or "
            "raise PLUMBLINE_BODY_TIMEOUT_S."
        )


class InternalError(PlumblineError):
    """Something that nobody foresaw. The log has the story under the request's id, the client only the id."""

    slug = "internal-error"
    title = "Internal error"
    status = 500

    def __init__(self) -> None:
        super().__init__(
            "The service failed in a way it did not foresee; no verdict was given. The log tells more under the "
            "request id that `instance` names. Please report it."
        )
