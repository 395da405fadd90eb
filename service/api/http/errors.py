"""Failures of HTTP itself: unknown paths, methods, media types, slow clients, unexpected exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

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
    """The request did not arrive in time, so the service closed the connection.

    Check the network. The message names the setting of the limit that was exceeded: `PLUMBLINE_HEADER_TIMEOUT_S`,
    `PLUMBLINE_BODY_TIMEOUT_S`, `PLUMBLINE_CALL_TIMEOUT_S` or `PLUMBLINE_MIN_BODY_RATE`.
    """

    slug = "request-timeout"
    title = "Request arrived too slowly"
    status = 408

    def __init__(self, seconds: float, setting: str = "PLUMBLINE_BODY_TIMEOUT_S", what: str = "request body") -> None:
        super().__init__(
            f"The {what} was not complete after {seconds:g} s. Check the network, send less data, or raise {setting}."
        )


class BodyTooSlow(RequestTimeout):
    """The request body arrived at less than the lowest accepted rate, so the service closed the connection.

    Check the network, or lower `PLUMBLINE_MIN_BODY_RATE`.
    """

    slug = "body-too-slow"
    title = "Request body arrived too slowly"

    def __init__(self, min_rate: int) -> None:
        PlumblineError.__init__(
            self,
            f"The request body arrived at less than {min_rate} bytes/s. Check the network, send a smaller image, or "
            "lower PLUMBLINE_MIN_BODY_RATE.",
        )


class UploadTooSlow(RequestTimeout):
    """The archive of a bundle arrived too slowly, so the service ended the upload.

    Check the network. If the limit on the total time was reached, raise `PLUMBLINE_UPLOAD_TIMEOUT_S`; if the limit on
    the rate, lower `PLUMBLINE_MIN_UPLOAD_RATE`.
    """

    slug = "upload-too-slow"
    title = "Bundle arrived too slowly"

    def __init__(self, reason: str) -> None:
        PlumblineError.__init__(
            self, f"The upload was ended: {reason} Nothing was stored. Check the network and send it again."
        )

    @classmethod
    def after(cls, seconds: float, setting: str) -> Self:
        """Return the error for an upload that took longer than allowed."""
        return cls(f"it took longer than {seconds:g} s ({setting}).")

    @classmethod
    def below(cls, min_rate: int) -> Self:
        """Return the error for an upload whose rate in bytes/s was lower than allowed."""
        return cls(f"it was slower than {min_rate} bytes/s on average (PLUMBLINE_MIN_UPLOAD_RATE).")


class MalformedRequest(PlumblineError):
    """The request is not valid HTTP/1.1, so the service closed the connection.

    Check the client, and proxies between the client and the service.
    """

    slug = "malformed-request"
    title = "Malformed HTTP request"
    status = 400

    def __init__(self, reason: str = "it is not a valid HTTP/1.1 request") -> None:
        super().__init__(
            f"The request cannot be read: {reason}. Check the client, and proxies between it and the service."
        )


class HeadersTooLarge(PlumblineError):
    """The URL and the headers of the request are larger than the limit, so the service closed the connection.

    Send fewer or shorter headers and query parameters.
    """

    slug = "headers-too-large"
    title = "Request headers too large"
    status = 431

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The URL and the headers of the request have more than {limit_bytes} bytes. Send fewer or shorter headers "
            "and query parameters.",
            limit_bytes=limit_bytes,
        )


class HostNotAllowed(PlumblineError):
    """The `Host` header of the request names a host that is not this service.

    A web page could otherwise reach the service under its own host name (DNS rebinding). Use the IP address or the host
    name of the machine, or add the name to `PLUMBLINE_ALLOWED_HOSTS`.
    """

    slug = "host-not-allowed"
    title = "Host is not allowed"
    status = 421

    def __init__(self) -> None:
        super().__init__(
            "The Host header names a host that this service does not have. Use the IP address or the host name of its "
            "machine, or add the name that clients use to PLUMBLINE_ALLOWED_HOSTS."
        )


class ForeignOrigin(PlumblineError):
    """A web page of another origin sent a request that may change state.

    Such requests are refused, because any page that is open in a browser can send them. Add the origin of the page to
    `PLUMBLINE_ALLOWED_ORIGINS` if it is meant to use the service.
    """

    slug = "foreign-origin"
    title = "Request of a foreign web page"
    status = 403

    def __init__(self) -> None:
        super().__init__(
            "A web page of another origin sent this request, which may change state. If that page is meant to use the "
            "service, add its origin (scheme, host and port) to PLUMBLINE_ALLOWED_ORIGINS."
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
