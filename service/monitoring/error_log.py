"""The newest warnings and errors of the log, kept in memory for the page System."""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

MAX_KEPT = 50
_LEVELS = {"warning": "warning", "warn": "warning", "error": "error", "exception": "error", "critical": "critical"}
_LEFT_OUT = {"event", "exc_info", "level", "logger", "stack_info", "timestamp", "_record", "_from_structlog"}
_MAX_TEXT = 500


@dataclass(frozen=True)
class LoggedError:
    """A log entry.

    Attributes:
        at: When it was logged.
        level: `warning`, `error` or `critical`.
        event: What happened.
        details: Its other fields as JSON; the name of the exception instead of its traceback.
    """

    at: datetime
    level: str
    event: str
    details: str


class ErrorLog:
    """A processor of structlog that keeps entries of the level warning and above.

    Args:
        limit: Number of entries that are kept.
    """

    def __init__(self, limit: int = MAX_KEPT) -> None:
        self._kept: deque[LoggedError] = deque(maxlen=limit)
        self._lock = threading.Lock()

    def __call__(
        self,
        logger: Any,  # noqa: ARG002
        method: str,
        event: structlog.typing.EventDict,
    ) -> structlog.typing.EventDict:
        """Keep an entry, and return it unchanged."""
        level = _LEVELS.get(method)
        if level is not None:
            fields = {name: value for name, value in event.items() if name not in _LEFT_OUT}
            if (error := _exception_of(event.get("exc_info"))) is not None:
                fields["exception"] = error
            details = json.dumps(fields, default=str, ensure_ascii=False) if fields else ""
            entry = LoggedError(datetime.now(UTC), level, str(event.get("event"))[:_MAX_TEXT], details[:_MAX_TEXT])
            with self._lock:
                self._kept.append(entry)
        return event

    def newest(self) -> list[LoggedError]:
        """Return the entries that are kept, newest first."""
        with self._lock:
            return list(reversed(self._kept))


def _exception_of(given: object) -> str | None:
    """Return the name and the message of the exception that a log call states."""
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) and len(given) > 1 else given
    return f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else None


ERROR_LOG = ErrorLog()
"""The entries of this process. The configuration of logs is one per process as well."""
