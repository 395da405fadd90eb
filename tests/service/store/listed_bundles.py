"""Bundles in the list of a bundle store, and choices of them, for tests. On SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.store.audit import Actor
from service.store.bundles.references import ListedBundle
from service.store.models import BundleChoiceRow, BundleRow
from service.store.records import Role
from service.store.session import writing
from service.store.store import Store

NOW = datetime.now(UTC)
LIMIT = NOW - timedelta(days=30)
LONG_AGO = NOW - timedelta(days=400)
PRUNER = Actor("command-line", "ada@pc-7", "Ada (command line)")
SERVING, OLD = "a" * 64, "b" * 64


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def list_bundle(store: Store, digest: str, *, product: str = "widget", **changes: Any) -> ListedBundle:
    values: dict[str, Any] = {"created_at": LONG_AGO, "stored_at": LONG_AGO, "size_bytes": 1000} | changes
    with writing(store.engine, "test") as session:
        row = BundleRow(digest=digest, product=product, version=digest[:12], status="available", manifest="", **values)
        session.add(row)
    return ListedBundle(product, digest[:12], digest, **values)


def choose(
    store: Store,
    digest: str | None,
    role: Role = "active",
    *,
    product: str = "widget",
    at: datetime = LONG_AGO,
    **links: Any,
) -> int:
    """Store a choice as of this time. Return its id."""
    with writing(store.engine, "test") as session:
        row = BundleChoiceRow(
            product=product, role=role, created_at=at, author="Ada", reason="test", bundle_digest=digest,
            **{"returns_to": None, **links},
        )  # fmt: skip
        session.add(row)
        session.flush()
        return row.id


def serve(store: Store) -> None:
    list_bundle(store, SERVING)
    choose(store, SERVING)
