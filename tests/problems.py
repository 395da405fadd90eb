"""Check problem documents in tests."""

from __future__ import annotations

from typing import Any

import httpx

from service.api.http.problems import catalogue
from service.schemas.problem import TYPE_PREFIX


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    kind = catalogue()[slug]
    assert problem["type"] == TYPE_PREFIX + slug
    assert problem["title"] == kind.title
    assert problem["status"] == status == kind.status
    assert problem["instance"] == f"urn:plumbline:request:{response.headers['x-request-id']}"
    assert problem["detail"].endswith("."), "a sentence"
    assert "Traceback" not in response.text
    if "retry_after" in problem:
        assert int(response.headers["retry-after"]) >= problem["retry_after"]
    else:
        assert "retry-after" not in response.headers, "waiting does not help"
    return problem
