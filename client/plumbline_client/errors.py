"""What the Python client raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx


class ServiceProblem(Exception):
    """The service refused or failed, and said why.

    Attributes:
        status: HTTP status.
        slug: Last part of the problem's type, such as "queue-full"; see `docs/problems.md`.
        detail: What happened, what was expected, what to do.
        problem: Everything that the service said.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.slug = str(problem.get("type", "")).rpartition(":")[2] or "unknown"
        self.detail = str(problem.get("detail", ""))
        super().__init__(f"{status} {self.slug}: {self.detail}")

    @classmethod
    def of(cls, response: httpx.Response) -> ServiceProblem:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            # Not the service's own words: a proxy on the way, most likely.
            body = {"detail": response.text[:200] or response.reason_phrase}
        return cls(response.status_code, body)


class StreamClosed(Exception):
    """The service closed a stream that was not at its end. Frames without a result were not inspected: send them again.

    Attributes:
        code: The WebSocket's close code; 1001 where the service is stopping, None where the connection broke.
    """

    def __init__(self, code: int | None) -> None:
        self.code = code
        super().__init__(f"the service closed the stream with code {code}; frames without a result were not inspected")
