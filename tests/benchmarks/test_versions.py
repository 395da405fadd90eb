"""`benchmarks.versions` compares with a checkout only, so that no version is compared with itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from benchmarks.versions import require_service
from tests.serving import ROOT


def test_own_checkout_is_one() -> None:
    require_service(ROOT)


def test_folder_without_service_is_refused(tmp_path: Path) -> None:
    """The environment has a `service` of its own, which must not stand for that of the folder."""
    with pytest.raises(typer.BadParameter, match="must be a checkout"):
        require_service(tmp_path)
