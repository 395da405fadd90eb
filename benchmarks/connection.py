"""An HTTP connection for load generators: one request at a time, on plain sockets, with little processor time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True)
class Response:
    """A response.

    Attributes:
        status: The status code.
        headers: The headers, with names in lower case.
        body: The body.
    """

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Connection:
    """A connection on the loopback. It is made by the first request, and again after it was closed.

    Args:
        port: TCP port of the server.
        source: Source address, which identifies the client.
    """

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._port = port
        self._source = source
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, request: bytes) -> Response:
        """Send a request, and return its response.

        Args:
            request: Head and body.

        Raises:
            OSError, EOFError: The connection was refused or closed.
            KeyError: The response does not state its length.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(self._source, 0))
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines if line)}
        body = await reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return Response(int(start.split()[1]), headers, body)

    def close(self) -> None:
        """Close the connection at once."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
