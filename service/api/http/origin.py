"""Protection against web pages that send requests to the service from a browser inside the plant's network.

A web page can make a browser send requests to any address. Three checks keep such requests out:

- `Host` must name this service. A page can let its own host name resolve to the address of the service (DNS rebinding);
  the browser then sends the name of the page. IP addresses cannot be rebound, so they are always allowed.
- `Origin`, which browsers send with every request that may change state and with every WebSocket, must be the service
  itself or an allowed origin.
- `Sec-Fetch-Site: cross-site` is refused for every request that may change state, unless its origin is allowed.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.http.errors import ForeignOrigin, HostNotAllowed, MalformedRequest
from service.api.http.problems import REQUEST_ID, ProblemResponse
from service.errors import PlumblineError
from service.host_names import is_address, is_host_name, machine_names
from service.settings import Settings
from service.store.ids import new_id

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods of requests that change nothing."""
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SECURE_SCHEMES = {"ws": "http", "wss": "https"}


class OriginGuard:
    """Refuses requests for other hosts and requests of foreign web pages that may change state.

    Args:
        app: The application.
        settings: Allowed hosts and origins.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = own_hosts(settings)
        self._origins = settings.allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a WebSocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        error = self._problem(scope)
        if error is None:
            await self._app(scope, receive, send)
            return
        # The body was not read, so the connection cannot be used again. A refused handshake ends its connection anyway.
        is_http = scope["type"] == "http"
        response = ProblemResponse(error, scope.get(REQUEST_ID) or str(new_id()), close=is_http)
        await response(scope, receive, send)

    def _problem(self, scope: Scope) -> PlumblineError | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        # HTTP/1.1 requires the header. Old load balancers probe with HTTP/1.0 and none, which no browser does.
        if len(hosts) > 1 or (not hosts and scope.get("http_version") != "1.0"):
            return MalformedRequest("it must have exactly one Host header")
        host = _host_and_port(hosts[0], scope["scheme"]) if hosts else None
        if hosts and (host is None or not self._is_own(host[0])):
            return HostNotAllowed()
        if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
            return None
        origins = headers.getlist("origin")
        if any(origin.lower() in self._origins for origin in origins) and len(origins) == 1:
            return None
        scheme: str = scope["scheme"]
        scheme = _SECURE_SCHEMES.get(scheme, scheme)
        if any(host is None or not _is_same(origin, scheme, host) for origin in origins):
            return ForeignOrigin()
        if headers.get("sec-fetch-site", "").lower() == "cross-site":
            return ForeignOrigin()
        return None

    def _is_own(self, name: str) -> bool:
        return is_own(name, self._hosts)


def own_hosts(settings: Settings) -> frozenset[str]:
    """Return the host names under which the service accepts requests. It accepts every IP address, too."""
    return machine_names(settings.allowed_hosts) | {"localhost", _name_of(settings.host)}


def is_own(name: str, hosts: frozenset[str]) -> bool:
    """Return whether the service accepts requests whose `Host` header has this name.

    Args:
        name: Host name in lower case, or IP address.
        hosts: See `own_hosts`.
    """
    return name in hosts or is_address(name)


def _host_and_port(value: str, scheme: str) -> tuple[str, int] | None:
    """Return the host in lower case and the port of a `Host` header; None if it is not valid."""
    try:
        parts = urlsplit(f"//{value}")
        port = parts.port
    except ValueError:
        return None
    name = parts.hostname
    if not name or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    name = name.rstrip(".")
    if not is_address(name) and not is_host_name(name):
        return None
    return name, port if port is not None else _DEFAULT_PORTS.get(scheme, 80)


def _is_same(origin: str, scheme: str, host: tuple[str, int]) -> bool:
    """Return whether an origin is the host that the request was sent to, with the scheme that the client sees."""
    given_scheme, separator, rest = origin.partition("://")
    given_scheme = given_scheme.lower()
    if not separator or given_scheme not in {"http", "https"}:
        return False
    # A proxy may end TLS in front of the service, so a page of https:// is the same as the service's http://.
    if given_scheme == "http" and scheme == "https":
        return False
    found = _host_and_port(rest, given_scheme)
    if found is None or found[0] != host[0]:
        return False
    behind_proxy = given_scheme == "https" and scheme == "http"
    return found[1] == host[1] or (behind_proxy and found[1] == 443 and host[1] == 80)


def _name_of(host: str) -> str:
    return host.strip("[]").lower()
