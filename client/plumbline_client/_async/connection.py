"""The HTTP connection of a client: options, retries, errors."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from plumbline_client._async.concurrency import run_blocking, sleep
from plumbline_client.calls import Call
from plumbline_client.credentials import key_header
from plumbline_client.errors import ServiceProblem
from plumbline_client.responses import Model, parse, retry_pause_s, unreachable
from plumbline_client.tls import Cert, Verify, tls_context


class AsyncConnection:
    """The part of `AsyncClient` that sends requests."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 30.0,
        retries: int = 5,
        max_retry_after_s: float = 30.0,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        auth: httpx.Auth | tuple[str, str] | None = None,
        verify: Verify = True,
        cert: Cert | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Make a client. No connection is opened yet.

        Args:
            base_url: URL of the service, for instance `http://127.0.0.1:8000`.
            timeout_s: Seconds that an attempt may wait for the connection, and for each part of the response.
            retries: How often a request is sent again after a 503. An image is also sent again once after a connection
                that was closed without a response, with the same idempotency key.
            max_retry_after_s: Longest pause in seconds before a request is sent again. A 503 that demands a longer one
                is raised at once.
            api_key: API key of the service, sent with every request and with the handshake of a stream. None to use the
                environment variable PLUMBLINE_API_KEY, if it is set and `auth` is not given. Use https:// outside the
                own machine: over http:// everyone on the network can read the key.
            headers: HTTP headers for every request and for the handshake of a stream.
            auth: Authentication: (user, password), or any `httpx.Auth`. A stream uses the headers that it adds to the
                first request (basic authentication, tokens). A scheme that needs a challenge, such as digest, does not
                work for streams.
            verify: Verification of the server's TLS certificate: True, False, the path of a file or folder of CA
                certificates, or an `ssl.SSLContext`. With True, the file or folder that the environment variable
                PLUMBLINE_CA_FILE names is used, if it is set.
            cert: TLS client certificate: the path of a PEM file, or (certificate, key) or (certificate, key, password).
            transport: An httpx transport instead of the network, for tests. Streams do not use it.

        Raises:
            ValueError: `base_url` is not an HTTP URL, a certificate cannot be read, or the API key is not valid in a
                header.
        """
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{base_url!r} is not a URL, such as http://127.0.0.1:8000") from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError(f"{base_url!r} is not the URL of a service: it must begin with http:// or https://")
        if auth is None and url.username:
            auth = (url.username, url.password)
        # Credentials are taken out of the URL, so that no error message shows them.
        url = url.copy_with(username=None, password=None)
        self.retries = retries
        self.max_retry_after_s = max_retry_after_s
        self._timeout_s = timeout_s
        self._headers = {**key_header(api_key, is_allowed_from_environment=auth is None), **(headers or {})}
        self._base_url = str(url).rstrip("/")
        self._tls = tls_context(verify, cert)
        self._http = httpx.AsyncClient(
            base_url=url, timeout=timeout_s, headers=self._headers, auth=auth, verify=self._tls, transport=transport
        )

    async def aclose(self) -> None:
        """Close the connections to the service."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _load(self, model: type[Model], call: Call) -> Model:
        """Send a request and return the body of the response as a model."""
        return parse(model, await self._send(call), self._url(call))

    async def _send(self, call: Call) -> bytes:
        """Send a request, again after a 503, and return the body of the response."""
        attempts_left = self.retries
        while True:
            response = await self._exchange(call)
            if response.is_success:
                return response.content
            pause_s = retry_pause_s(response, self.max_retry_after_s)
            if pause_s is None or attempts_left <= 0:
                raise ServiceProblem.of(response)
            attempts_left -= 1
            await sleep(pause_s)

    async def _download(self, call: Call, path: Path) -> None:
        """Send a request, again after a 503, and write the body of the response to a file as it arrives.

        Raises:
            OSError: The file cannot be written.
        """
        attempts_left = self.retries
        while True:
            try:
                async with self._http.stream(call.method, call.path, **call.arguments()) as response:
                    if response.is_success:
                        with await run_blocking(path.open, "wb") as file:
                            async for piece in response.aiter_bytes():
                                await run_blocking(file.write, piece)
                        return
                    await response.aread()
            except (httpx.HTTPError, ssl.SSLError) as error:
                raise unreachable(self._url(call), error, self._timeout_s) from error
            pause_s = retry_pause_s(response, self.max_retry_after_s)
            if pause_s is None or attempts_left <= 0:
                raise ServiceProblem.of(response)
            attempts_left -= 1
            await sleep(pause_s)

    async def _exchange(self, call: Call) -> httpx.Response:
        """Send a request and return the response, whatever its status.

        It is sent once, and again at once if it has an idempotency key and the connection was closed without a
        response: a proxy closes the connection if the replica behind it failed, and expects this of its clients.
        """
        try:
            try:
                return await self._http.request(call.method, call.path, **call.arguments())
            except (httpx.RemoteProtocolError, httpx.ReadError):
                if "idempotency-key" not in call.headers:
                    raise
                return await self._http.request(call.method, call.path, **call.arguments())
        # httpx lets some failures of TLS through as the SSLError that they are, which is an OSError.
        except (httpx.HTTPError, OSError) as error:
            raise unreachable(self._url(call), error, self._timeout_s) from error
        except httpx.InvalidURL as error:
            raise ValueError(
                "A name or an id is not valid in a URL: it has control characters or is too long"
            ) from error

    def _url(self, call: Call) -> str:
        return self._base_url + call.path
