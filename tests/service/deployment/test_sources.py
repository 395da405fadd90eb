"""Where bundles come from: the order in which they serve by default."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.bundle.errors import BundleInvalid
from service.bundle.manifest import MANIFEST
from service.deployment.sources.folder import FolderSource
from tests.bundles import write_tiny_bundle


def test_no_conversion_is_the_default(tmp_path: Path) -> None:
    def made(month: int) -> datetime:
        return datetime(2026, month, 1, tzinfo=UTC)

    older = write_tiny_bundle(tmp_path, created_at=made(3))
    newest = write_tiny_bundle(tmp_path, created_at=made(5))
    int8 = write_tiny_bundle(tmp_path, created_at=made(6), precision="int8", converted_from=newest.digest)
    (tmp_path / "widget" / "zzz-unreadable").mkdir()

    source = FolderSource(tmp_path)
    assert source.versions("widget")[0] == int8.version
    assert source.defaults("widget") == [newest.version, older.version, "zzz-unreadable", int8.version]
    assert source.defaults("bolt") == []


def test_damaged_bundle_keeps_its_place(tmp_path: Path) -> None:
    old, newest = (write_tiny_bundle(tmp_path, created_at=datetime(2026, month, 1, tzinfo=UTC)) for month in (3, 5))
    path = newest.path / MANIFEST
    path.write_text(path.read_text() + " ")
    source = FolderSource(tmp_path)
    with pytest.raises(BundleInvalid):
        source.manifest("widget", newest.version)
    assert source.defaults("widget") == [newest.version, old.version], "no silent roll-back"
    assert source.default_digest("widget") == old.digest, "the digest of the other one is not known"
    assert source.default_digest("bolt") is None
