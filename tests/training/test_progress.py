"""Progress bars in narrow terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from training.cli import progress


@pytest.mark.parametrize("width", [80, 120])
def test_counters_and_remaining_time_are_not_cut(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    terminal = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "errors", terminal)
    with progress.ProgressBars() as bars:
        bars.stage("build the anomaly map", 2)(1, "")
        bars.stage("train", 12_000)(11_999, "12:34 left · loss 0.1234 · 120 images/s")
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    assert "11999/12000" in text
    assert "12:34 left" in text
