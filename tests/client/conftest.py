"""Fixtures of the tests of the client."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses before further attempts, which are not waited for."""
    found: list[float] = []

    async def pause(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr("plumbline_client._sync.connection.sleep", found.append)
    monkeypatch.setattr("plumbline_client._async.connection.sleep", pause)
    return found
