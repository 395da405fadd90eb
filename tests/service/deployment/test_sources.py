"""Where bundles come from: the order in which they serve by default."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

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
    assert source.defaults("widget") == [newest.version, older.version, int8.version, "zzz-unreadable"]
    assert source.defaults("bolt") == []
