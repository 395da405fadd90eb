"""Exceptions that the client raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

UNKNOWN = "unknown"
"""Slug of a response that is not a problem document."""


class PlumblineClientError(Exception):
    """Base class of every error that the client raises on its own."""


class ServiceProblem(PlumblineClientError):
    """The service refused the request or failed to process it.

    Attributes:
        status: HTTP status code.
        slug: Name of the problem type, such as "queue-full"; `docs/problems.md` lists them. "unknown" where the
            response is not a problem document, for instance because a proxy wrote it.
        detail: What happened, what was expected, what to do.
        problem: The whole problem document (RFC 9457).
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.slug = re.split("[#:]", str(problem.get("type", "")))[-1] or UNKNOWN
        self.detail = str(problem.get("detail", ""))
        super().__init__(f"{status} {self.slug}: {self.detail}")

    @classmethod
    def of(cls, response: httpx.Response) -> ServiceProblem:
        """Return the problem that an unsuccessful response describes."""
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            # Not a problem document: most likely a proxy wrote this response.
            body = {"detail": response.text[:200] or response.reason_phrase}
        return cls(response.status_code, body)


class ServiceUnreachable(PlumblineClientError):
    """No response arrived: connection refused or lost, time-out, unknown host, or TLS failure.

    Where the connection was lost or timed out after the request was sent, the service may have processed it.
    `__cause__` is the exception of the HTTP or WebSocket library.

    Attributes:
        url: The URL that was requested.
        reason: What failed.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(
            f"{url} is unreachable: {reason}. Check that the service is running and that the URL is right."
        )


class UnexpectedResponse(PlumblineClientError):
    """A successful response has a body that the client cannot read: another server, or another version of the service.

    Attributes:
        url: The URL that was requested.
        reason: What is wrong with the body.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(
            f"{url} sent a response that is not of the expected form: {reason}. Check that the URL belongs to a "
            "Plumbline service and that its version fits the version of this client."
        )


class StreamClosed(PlumblineClientError):
    """The service closed a stream before its end. Frames without a result were not inspected: send them again.

    Attributes:
        code: Close code of the WebSocket; 1001 if the service is stopping, None if the connection was lost.
    """

    def __init__(self, code: int | None) -> None:
        self.code = code
        how = "the connection was lost" if code is None else f"the service closed the stream with code {code}"
        super().__init__(f"{how}; frames without a result were not inspected, send them again")


class MissingExtra(PlumblineClientError, ImportError):
    """A method needs an optional dependency that is not installed.

    Attributes:
        extra: The extra of `plumbline-client` that installs it.
    """

    def __init__(self, method: str, package: str, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"{method} needs {package}: install it with pip install './client[{extra}]' in a checkout of Plumbline"
        )
