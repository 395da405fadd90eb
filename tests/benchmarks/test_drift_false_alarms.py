"""Drift monitoring keeps its stated rate of false alarms and finds changes in time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import drift_false_alarms as simulation
from service.monitoring.drift.detector import Detector
from service.monitoring.drift.ranks import BET_WEIGHTS


@pytest.mark.parametrize(
    ("n", "levels", "accepted"), [(10, None, 1.0), (20, None, 1.0), (20, 8, 1.0), (50, 8, 0.9), (99, None, 0.99)]
)
def test_stationary_streams_raise_at_most_one_false_alarm_per_year(n: int, levels: int | None, accepted: float) -> None:
    found = simulation.stationary_ranks(n, 1000, 500, levels=levels, accepted=accepted)
    assert found.alarms <= 1
    # Without the joint distribution, small calibrations would raise several.
    assert found.naive > 2 * found.alarms


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.2])
def test_a_constant_reject_rate_raises_at_most_one_false_alarm_per_year(rate: float) -> None:
    assert simulation.stationary_rejects(rate, 5000).alarms <= 1


@pytest.mark.parametrize("history", [2000, 10_000])
def test_a_step_of_the_reject_rate_is_found_within_500_parts(history: int) -> None:
    assert simulation.reject_step(0.01, 0.03, 1000, history) <= 500


@pytest.mark.parametrize(("n", "history"), [(20, 0), (20, 500), (99, 500)])
def test_a_shift_of_all_scores_is_found_within_50_parts(n: int, history: int) -> None:
    parts, error = simulation.rank_shift(n, 3.0, 30, history)
    assert parts <= 50
    assert error <= 5


def test_the_simulation_computes_what_the_service_computes() -> None:
    rng = np.random.default_rng(1)
    detector, many = Detector(BET_WEIGHTS), simulation._Wealth(1, BET_WEIGHTS)
    for bets in rng.gamma(1, size=(50, len(BET_WEIGHTS))):
        detector.update(bets, 1.0)
        many.update(bets[None], np.inf)
    assert float(many._wealth[0] @ np.array(BET_WEIGHTS)) == pytest.approx(detector.wealth)


def test_the_document_has_all_tables() -> None:
    text = simulation.DOCUMENT.read_text(encoding="utf-8")
    table = text.partition(simulation.BEGIN)[2].partition(simulation.END)[0]
    rows = [line for line in table.splitlines() if "(at most 1)" in line]
    assert len(rows) == len(simulation.RANK_CASES) + len(simulation.REJECT_RATES)
    assert all(float(row.split("|")[3].split()[0]) <= 1 for row in rows)
    assert "| reject rate 1 % → 3 % |" in table


@pytest.mark.real_data
@pytest.mark.parametrize("factor", [1.15, 0.85])
def test_a_change_of_light_on_real_images_is_found_within_50_parts(factor: float) -> None:
    folder = os.environ.get("PLUMBLINE_TEST_DATA")
    if folder is None:
        pytest.skip("PLUMBLINE_TEST_DATA is not set; point it to a folder of MVTec-layout data sets (hazelnut_mini)")
    found = simulation.light_change(Path(folder) / "hazelnut_mini", factor, n=20)
    assert found.parts <= 50
    assert found.before < simulation.LIMIT
