"""The API key of a client."""

from __future__ import annotations

import httpx
import pytest

from plumbline_client import Client


def sent(client: Client, requests: list[httpx.Request]) -> httpx.Request:
    with client, pytest.raises(Exception):  # noqa: B017 - the stub has no product
        client.products()
    return requests[-1]


def client_with(requests: list[httpx.Request], **options: object) -> Client:
    def record(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(404, json={"type": "about:blank", "title": "x", "status": 404, "detail": "x"})

    return Client("http://127.0.0.1:8000", transport=httpx.MockTransport(record), **options)  # type: ignore[arg-type]


def test_key_is_sent_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[httpx.Request] = []
    monkeypatch.delenv("PLUMBLINE_API_KEY", raising=False)
    assert "authorization" not in sent(client_with(requests), requests).headers
    assert sent(client_with(requests, api_key="plumb_a_b"), requests).headers["authorization"] == "Bearer plumb_a_b"
    monkeypatch.setenv("PLUMBLINE_API_KEY", "plumb_env_b\n")
    assert sent(client_with(requests), requests).headers["authorization"] == "Bearer plumb_env_b"
    assert sent(client_with(requests, api_key="plumb_a_b"), requests).headers["authorization"] == "Bearer plumb_a_b"
    given = sent(client_with(requests, auth=("user", "password")), requests)
    assert given.headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ümlaut"])
def test_wrong_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValueError, match="is not an API key") as caught:
        client_with([], api_key=key)
    assert not key or key not in str(caught.value)
