"""Errors of the endpoint that is compatible with Amazon Lookout for Vision, as clients of AWS expect them.

The name of the error is in the header `x-amzn-ErrorType`, the message in the member `Message` of the body.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from service.api.http.server_paths import hide_paths
from service.errors import PlumblineError
from service.schemas.problem import TYPE_PREFIX

AWS_PREFIX = "/2020-11-20/"
"""Beginning of the paths whose errors have this form. AWS puts the version of the API there."""
_SCHEMA = {
    "type": "object",
    "required": ["Message"],
    "properties": {
        "Message": {"type": "string"},
        "ResourceId": {"type": "string"},
        "ResourceType": {"type": "string"},
    },
}
_NAMES = {
    400: "ValidationException",
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    405: "ValidationException",
    408: "RequestTimeoutException",
    409: "ConflictException",
    429: "ThrottlingException",
}
_OTHER = "InternalServerException"
_DESCRIBED_HEADERS = {
    401: {"WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
}
_STATUSES = {401: 401, 403: 403, 404: 404, 405: 405, 408: 408, 409: 409, 421: 403, 429: 429}


def aws_status(status: int, *, is_temporary: bool) -> int:
    """Return the status that clients of AWS expect.

    Args:
        status: The status of the problem.
        is_temporary: Whether the problem states when the request may succeed. Clients of AWS repeat such requests by
            themselves if they are throttled.
    """
    if status >= 500:
        return 429 if is_temporary else status
    return _STATUSES.get(status, 400)


def aws_error(error: PlumblineError) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the response for a failure."""
    status = aws_status(error.status, is_temporary=error.retry_after_s is not None)
    body = {"Message": hide_paths(error.detail)}
    if status in {404, 409}:
        body |= {"ResourceId": str(error.extensions.get("product", "")), "ResourceType": "PROJECT"}
    headers = {
        "Content-Type": "application/json",
        "x-amzn-ErrorType": _NAMES.get(status, _OTHER),
        "X-Problem-Type": TYPE_PREFIX + error.slug,
    }
    return status, headers, json.dumps(body).encode()


def aws_responses(responses: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the OpenAPI description of responses with the failures in the form of AWS.

    Args:
        responses: The responses by status, with the failures as problems.
    """
    described: dict[str, Any] = {status: response for status, response in responses.items() if int(status) < 400}
    texts: dict[int, list[str]] = {}
    for problem_status in sorted(int(status) for status in responses.keys() - described.keys()):
        found = {aws_status(problem_status, is_temporary=False)}
        if problem_status == 503:
            found.add(aws_status(problem_status, is_temporary=True))
        for status in found:
            texts.setdefault(status, []).append(str(responses[str(problem_status)]["description"]))
    for status in sorted(texts):
        described[str(status)] = {
            "description": f"`{_NAMES.get(status, _OTHER)}`. {' '.join(texts[status])}",
            "content": {"application/json": {"schema": _SCHEMA}},
            "headers": {
                "x-amzn-ErrorType": {"description": "Name of the error.", "schema": {"type": "string"}},
                "X-Problem-Type": {"description": "Type of the problem.", "schema": {"type": "string"}},
                **_DESCRIBED_HEADERS.get(status, {}),
            },
        }
    return described
