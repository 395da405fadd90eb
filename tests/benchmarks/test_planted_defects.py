"""The table of planted defects counts what the image check names, on drawn plates with known defects."""

from pathlib import Path

import pytest

from benchmarks.planted_defects import Outcome, measure, table
from tests.training.small_product import write_plates
from training.teachers import load_teacher


@pytest.mark.slow
def test_planted_spots_are_counted(tmp_path: Path) -> None:
    folder = write_plates(tmp_path / "plates")
    before = sorted(folder.rglob("*.png"))
    outcome = measure(load_teacher("efficientnet_lite0"), folder, share=0.05, seed=0)
    assert (outcome.product, outcome.good, outcome.planted) == ("plates", 40, 2)
    assert (outcome.named, outcome.on_sheet, outcome.sheet) == (2, 2, 24)
    assert outcome.ranking == 1.0
    assert outcome.beside <= 2
    assert outcome.false_alarms <= 3
    assert sorted(folder.rglob("*.png")) == before, "the data set is not changed"


def test_table_states_the_share_of_false_alarms() -> None:
    row = table([Outcome("plates", 200, 10, 7, 8, 24, 0.987, 1, 3)]).splitlines()[-1]
    assert row == "| plates | 200 | 10 | 7 | 8 of 24 | 98.7 | 1 | 3 (1.5%) |"
