"""A short run of the benchmark of reviews by keyboard, and its limits."""

from __future__ import annotations

import contextlib
import json

import pytest
from typer import Exit

from benchmarks.review_speed import Round, main, summarise
from tests.browser import REMEDY, find_chromium


def test_rounds_are_compared_with_the_limits() -> None:
    fast = Round(100, 60.0, [20.0] * 100, 0)
    assert summarise([fast])["met"]
    assert summarise([fast])["wait_ms"] == {"median": 20.0, "p95": 20.0, "largest": 20.0}
    assert not summarise([fast, Round(100, 60.0, [200.0] * 20, 0)])["met"]
    assert not summarise([fast, Round(50, 60.0, [20.0], 0)])["met"], "two minutes per hundred"
    assert not summarise([fast, Round(100, 60.0, [20.0], 1)])["met"]


@pytest.mark.slow
def test_short_run_stores_every_review(capsys: pytest.CaptureFixture[str]) -> None:
    if find_chromium() is None:
        pytest.skip(REMEDY)
    with contextlib.suppress(Exit):  # the limits are for a quiet machine
        main(reviews=17, pause=0, rounds=1)
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["missing"]) == (19, 0)
