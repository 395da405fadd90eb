"""Fixtures of the tests of deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.integrations import worker as worker_module
from service.store.store import Store


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("POLL_S", 0.05), ("MAINTENANCE_S", 0.05), ("CONFIRM_S", 0.02), ("GRACE_S", 0.5)):
        monkeypatch.setattr(worker_module, name, value)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path / "data")
    yield opened
    opened.close()
