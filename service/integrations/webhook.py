"""The webhook sink: one HTTP POST per event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

from service.integrations.config import WebhookConfig
from service.integrations.delivery import Attempt, Event
from service.integrations.signature import EVENT_ID, EVENT_TYPE, SIGNATURE, TIMESTAMP, sign
from service.integrations.tls import client_context
from service.version import VERSION

MAX_RETRY_AFTER_S = 3600.0
"""Longest time that a receiver can delay the next attempt for."""
# A response is read up to this size, so that its connection can be used again. Its content is not used.
_MAX_RESPONSE_BYTES = 64 * 1024
# The receiver cannot process this message, however often it is sent. Other client errors are often repaired at the
# receiver: an expired token, a path that is not deployed yet.
_REFUSED = {400, 413, 415, 422}
# The receiver or a proxy in front of it has no capacity, or is not running.
_WITHOUT_CAPACITY = {408, 425, 429, 502, 503, 504}


class WebhookSink:
    """Sends events as HTTP requests. Redirects are not followed.

    Args:
        config: The configuration. Secrets and certificates are read now.

    Raises:
        SinksInvalid: A secret or a certificate cannot be read.
    """

    def __init__(self, config: WebhookConfig) -> None:
        self._url = config.read_url()
        self._timeout_s = config.timeout_s
        self._proxy = config.proxy
        self._secret = None if config.secret is None else config.secret.read(config.name, "secret")
        self._token = config.read_bearer_token()
        self._tls = client_context(config.tls, config.name)
        self._client: httpx.AsyncClient | None = None

    @property
    def target(self) -> str:
        """Scheme, host and port of the URL. The path may contain a secret."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{_host(parts.hostname or '')}" + ("" if parts.port is None else f":{parts.port}")

    async def open(self, on_available: Callable[[], None]) -> None:  # noqa: ARG002 - learns it by the next attempt only
        """Create the HTTP client."""
        # The environment is ignored: it could name a proxy or a file with credentials for other programs.
        self._client = httpx.AsyncClient(
            verify=self._tls,
            follow_redirects=False,
            trust_env=False,
            timeout=self._timeout_s,
            proxy=self._proxy,
            headers={"user-agent": f"plumbline/{VERSION}"},
        )

    async def deliver(self, event: Event) -> Attempt:
        """Send an event once."""
        assert self._client is not None, "the sink is not open"
        try:
            # The timeout of httpx is for one read only; a receiver that sends byte by byte would exceed any time.
            async with asyncio.timeout(self._timeout_s):
                async with self._client.stream(
                    "POST", self._url, content=event.body, headers=self._headers(event)
                ) as response:
                    await _discard(response)
        except (TimeoutError, httpx.TimeoutException):
            return Attempt("unavailable", f"no response within {self._timeout_s:g} s")
        # httpx passes a TLS alert that arrives after the handshake, as of a missing client certificate, as `SSLError`.
        except (httpx.TransportError, OSError) as error:
            return Attempt("unavailable", _transport_failure(error))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Attempt("rejected", f"the response is not valid ({type(error).__name__})")
        return classify(response.status_code, response.headers, datetime.now(UTC))

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _headers(self, event: Event) -> dict[str, str]:
        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            EVENT_ID: event.id,
            EVENT_TYPE: event.type,
            TIMESTAMP: timestamp,
        }
        if event.traceparent is not None:
            headers["traceparent"] = event.traceparent
        if self._secret is not None:
            headers[SIGNATURE] = sign(self._secret, timestamp, event.body)
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        return headers


def classify(status: int, headers: Mapping[str, str], now: datetime) -> Attempt:
    """Return what a response means for the event.

    Args:
        status: The status code.
        headers: The headers; names in lower case.
        now: The time, for a `Retry-After` with a date.
    """
    if 200 <= status < 300:
        return Attempt("delivered")
    if status in _REFUSED:
        return Attempt("refused", f"the receiver returned status {status}")
    if 300 <= status < 400:
        return Attempt("rejected", f"the receiver returned status {status}; redirects are not followed")
    retry_after_s = _retry_after_s(headers.get("retry-after", ""), now)
    kind = "unavailable" if status in _WITHOUT_CAPACITY else "rejected"
    return Attempt(kind, f"the receiver returned status {status}", retry_after_s)  # type: ignore[arg-type]  # one of two


def _retry_after_s(value: str, now: datetime) -> float | None:
    """Return the seconds in a `Retry-After` header, bounded; None if there is no valid one."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


async def _discard(response: httpx.Response) -> None:
    read = 0
    async for piece in response.aiter_raw():
        read += len(piece)
        if read > _MAX_RESPONSE_BYTES:
            return


def _transport_failure(error: httpx.TransportError | OSError) -> str:
    """Return why no response arrived. The messages of the library are not used: they may contain the URL."""
    cause: BaseException | None = error
    while cause is not None:
        if "CERTIFICATE_VERIFY_FAILED" in str(cause):
            return "the certificate of the receiver is not trusted; set tls.ca_file"
        if "CERTIFICATE_REQUIRED" in str(cause):
            return "the receiver requires a client certificate; set tls.cert_file"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return "the connection failed"
    if isinstance(error, httpx.ProxyError):
        return "the proxy refused the connection"
    return "the connection was closed before a response arrived"


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name
