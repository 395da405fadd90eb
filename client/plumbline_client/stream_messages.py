"""Messages of the WebSocket stream (`docs/stream.md`), shared by the sync and the async side of the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from plumbline_client.calls import CameraBuffer, given
from plumbline_client.errors import ServiceProblem, UnexpectedResponse
from plumbline_client.schemas.stream import SERVICE_MESSAGE, Ready, StreamFailure, StreamResult
from plumbline_client.schemas.violations import describe_violations, list_violations

NORMAL_CLOSURE = 1000
END = json.dumps({"type": "end"})
# A result is a few kilobytes of JSON. Messages are not compressed: frames are encoded images in most cases.
WEBSOCKET_OPTIONS: Mapping[str, Any] = {"max_size": 2**24, "compression": None}


def hello(part: Mapping[str, str | None], buffer: CameraBuffer | None) -> str:
    """Return the first message of a stream."""
    layout = {} if buffer is None else given(asdict(buffer))
    return json.dumps({"type": "hello", "part": given(part), "buffer": layout})


def parse_result(message: str | bytes, url: str) -> StreamResult | None:
    """Return the result that a message of the service contains, or None for the message that opens the stream.

    Raises:
        ServiceProblem: The service ends the stream because of what it received.
        UnexpectedResponse: The message is not one of the protocol.
    """
    try:
        parsed = SERVICE_MESSAGE.validate_json(message)
    except ValidationError as error:
        raise UnexpectedResponse(url, describe_violations(list_violations(error)[:1], "the message")) from error
    if isinstance(parsed, StreamFailure):
        raise ServiceProblem(parsed.problem.status, parsed.problem.model_dump())
    return None if isinstance(parsed, Ready) else parsed


def refusal(status: int, body: bytes | bytearray | None) -> ServiceProblem:
    """Return the problem with which the service refused to open a stream."""
    try:
        problem = json.loads(body or b"")
    except ValueError:
        problem = {}
    return ServiceProblem(status, problem if isinstance(problem, dict) else {})
