"""Structured logs: one JSON object per line, with the request id, including the logs of uvicorn and alembic."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from service.monitoring.error_log import ERROR_LOG
from service.settings import Settings


def _escape_control_characters(
    logger: Any,  # noqa: ARG001
    method: str,  # noqa: ARG001
    event: structlog.typing.EventDict,
) -> structlog.typing.EventDict:
    """Escape what a terminal would interpret, such as the ESC of a colour in a requested path."""
    return {name: _escaped(value) if isinstance(value, str) else value for name, value in event.items()}


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


# Messages of uvicorn that anyone can cause in any number, without credentials. The first one quotes the query, which
# may contain a key that was sent there by mistake. Metrics count these events, and `RefusalLog` logs refusals.
_BY_CLIENTS = (
    '%s - "WebSocket %s"',
    "ASGI callable returned without completing handshake.",
    "Invalid HTTP request received.",
    "Invalid UTF-8 sequence received from client.",
    "Unsupported upgrade request.",
)


def _is_of_the_server(record: logging.LogRecord) -> bool:
    """Return whether a message of uvicorn is not one that clients cause."""
    return not str(record.msg).startswith(_BY_CLIENTS)


def configure_logging(settings: Settings) -> None:
    """Format all logs of this process with structlog, and write them to standard error."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        ERROR_LOG,
    ]
    render: list[structlog.typing.Processor]
    if settings.log_format == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Plain tracebacks: rich tracebacks take seconds and print all local variables, including images.
        render = [
            _escape_control_characters,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        # Messages below the level only cost a comparison, so a debug message per inspection is cheap.
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.error").filters = [_is_of_the_server]
    # httpx logs every URL at level info. URLs of webhooks may contain secrets.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    # At level info, alembic logs its configuration at every start.
    logging.getLogger("alembic").setLevel(max(level, logging.WARNING))
