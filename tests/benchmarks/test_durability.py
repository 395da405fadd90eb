"""A short run of the durability campaign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.durability import (
    delete_folder,
    kill_row,
    loss_row,
    replace_database,
    second_process_row,
    term_row,
)

pytestmark = pytest.mark.slow


def test_killed_processes_lose_nothing(tiny_models: Path, tmp_path: Path) -> None:
    row = kill_row(tiny_models, tmp_path / "data", 3)
    assert row.is_passed, str(row)
    assert row.answered


def test_stopped_processes_lose_nothing_and_break_no_connection(tiny_models: Path, tmp_path: Path) -> None:
    row = term_row(tiny_models, tmp_path / "data", 2)
    assert row.is_passed, str(row)
    assert row.answered


@pytest.mark.parametrize("lose", [delete_folder, lambda data: (data / "plumbline.db").unlink(), replace_database])
def test_nothing_is_answered_after_the_store_was_lost(
    tiny_models: Path, tmp_path: Path, lose: Callable[[Path], Any]
) -> None:
    row = loss_row(tiny_models, tmp_path / "data", "lost", lose)
    assert row.is_passed, str(row)


def test_second_process_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    row = second_process_row(tiny_models, tmp_path / "data")
    assert row.is_passed, str(row)
