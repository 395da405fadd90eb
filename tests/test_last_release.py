"""The record of the last release, and what happens without the history that contains it."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.store.schema import known_revisions
from tests.last_release import LastRelease


def test_record_names_a_migration_of_the_present_version() -> None:
    assert LastRelease.read().revision in known_revisions()


def test_checkout_without_the_release_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="git fetch --unshallow"):
        LastRelease.read().unpack(tmp_path / "programs", root=tmp_path)
    assert not (tmp_path / "programs").exists()
