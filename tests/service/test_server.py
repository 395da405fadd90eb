"""What the server reports when the application cannot start."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send

from service.errors import InvalidRequest
from service.server import STARTUP_FAILED, ReportedStart


def start(error: Exception) -> tuple[list[Message], list[str]]:
    """Start an application that fails as Starlette reports it. Return what was sent and what was logged."""
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": STARTUP_FAILED, "message": "Traceback of the application"})
        raise error

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with structlog.testing.capture_logs() as logs:
        asyncio.run(ReportedStart(app)({"type": "lifespan"}, receive, send))
    return sent, [entry["reason"] for entry in logs]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidRequest("The store is in use."), "The store is in use."),
        (PermissionError(13, "Permission denied", "/models"), "/models: Permission denied. Check permissions"),
        (OSError("no details"), "The system: unknown error."),
    ],
)
def test_expected_error_is_reported_as_one_sentence(error: Exception, reason: str) -> None:
    sent, (reported,) = start(error)
    assert sent == [{"type": STARTUP_FAILED}]
    assert reported.startswith(reason)


def test_error_of_the_program_is_reported_with_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        start(ZeroDivisionError())


def test_error_after_the_start_is_raised() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise InvalidRequest("While stopping.")

    async def nothing(_message: Message | None = None) -> Message:
        return {}

    with pytest.raises(InvalidRequest):
        asyncio.run(ReportedStart(app)({"type": "lifespan"}, nothing, nothing))  # type: ignore[arg-type]
