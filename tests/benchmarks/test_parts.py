"""The parts of a bundle, on gray images whose distances can be computed by hand, and their table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.parts import Row, markdown, measure
from tests.bundles import SIZE, part, write_tiny_bundle
from tests.explained_bundles import GRAYS, write_explained_bundle
from training.dataset import TestImage


def saved(path: Path, brightness: int, spot: tuple[int, int, int] | None = None) -> Path:
    Image.fromarray(part(brightness=brightness, spot=spot)).save(path)
    return path


def masked(path: Path, spot: tuple[int, int, int]) -> Path:
    x, y, side = spot
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[y : y + side, x : x + side] = 255
    Image.fromarray(mask).save(path)
    return path


def test_each_part_is_measured_by_its_own_sources(tmp_path: Path) -> None:
    bundle = write_explained_bundle(tmp_path / "models")
    spot = (16, 24, 16)
    images = [
        TestImage(saved(tmp_path / "good.png", GRAYS[0]), "good", None),
        # Another gray value of the good images: far from mid-gray, and no distance to the memory bank.
        TestImage(saved(tmp_path / "other.png", GRAYS[3]), "good", None),
        TestImage(saved(tmp_path / "spot.png", GRAYS[0], spot), "spot", masked(tmp_path / "mask.png", spot)),
    ]

    row = measure(bundle, images)

    assert (row.category, row.method, row.seed) == ("widget", "gray-bank", bundle.manifest.training.seed)
    assert row.parts.keys() == {"trained part", "memory banks", "both"}
    assert row.parts["memory banks"] == pytest.approx((1.0, 1.0))
    assert row.parts["trained part"][0] == 1.0


def test_a_part_that_does_not_see_the_defect_does_not_separate(tmp_path: Path) -> None:
    bundle = write_explained_bundle(tmp_path / "models")
    images = [
        # Four gray values from mid-gray and from the nearest prototype, against 25 and none.
        TestImage(saved(tmp_path / "good.png", GRAYS[0] + 4), "good", None),
        TestImage(saved(tmp_path / "bad.png", GRAYS[3]), "gray", None),
    ]

    row = measure(bundle, images)

    assert {name: auroc for name, (auroc, _) in row.parts.items()} == {
        "trained part": 1.0,
        "memory banks": 0.0,
        "both": 1.0,
    }
    assert np.isnan(row.parts["both"][1])  # there is no mask


def test_bundles_without_an_explanation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="explain"):
        measure(write_tiny_bundle(tmp_path / "models"), [])


def test_table_has_a_line_for_each_part_and_a_mean_only_of_all_categories() -> None:
    def row(category: str, seed: int, banks: float) -> Row:
        return Row(category, "drd", seed, {"trained part": (0.9, 0.8), "memory banks": (banks, 0.7)})

    lines = markdown([row("a", 0, 0.8), row("a", 1, 1.0), row("b", 0, 1.0)]).splitlines()

    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["method", "part", "seeds", "a", "b", "mean"]
    assert cells[2] == ["drd", "trained part", "2", "90.00 / 80.00", "90.00 / 80.00", "90.00 / 80.00"]
    assert cells[3] == ["drd", "memory banks", "2", "90.00 / 70.00", "100.00 / 70.00", "95.00 / 70.00"]
    incomplete = markdown([row("a", 0, 0.8), Row("b", "nnet", 0, {"both": (1.0, 1.0)})])
    assert "| drd | memory banks | 1 | 80.00 / 70.00 | – | – |" in incomplete
