"""The table of precisions, and the ratios of throughputs."""

import shutil
from pathlib import Path

import pytest

from benchmarks.measured_bundles import fp32_bundles
from benchmarks.precisions import Row, markdown, measure
from service.bundle.bundle import Bundle
from tests.bundles import write_tiny_bundle
from tests.training.small_product import build_bundle, write_plates
from training.cli.progress import ProgressBars


def row(category: str, fp32: float, int8: float, *, seed: int = 0, refused: bool = False) -> Row:
    before, after = ({"image_auroc": value, "pixel_auroc": 0.9} for value in (fp32, int8))
    return Row(category, "nnet", seed, before, after, (16.0, 10.0), ["worse"] if refused else [])


def test_table_has_one_line_per_category_and_the_mean_of_the_categories() -> None:
    table = markdown([row("a", 0.9, 0.8), row("a", 0.8, 0.8, seed=1), row("b", 0.99, 0.98, refused=True)])

    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert lines[2] == ["nnet", "a", "2", "85.00", "80.00", "90.00", "90.00", "nan", "nan", "16.0", "10.0", "0 of 2"]
    assert lines[3][:5] == ["nnet", "b", "1", "99.00", "98.00"]
    assert lines[4][:5] == ["nnet", "**mean**", "2", "92.00", "89.00"]
    assert lines[4][-1] == "1 of 3"


def test_bundles_of_other_precisions_and_hidden_folders_are_left_out(tmp_path: Path) -> None:
    first = write_tiny_bundle(tmp_path / "one")
    write_tiny_bundle(tmp_path / "two", precision="int8")
    shutil.copytree(first.path, tmp_path / ".staging" / "widget" / first.version)

    assert [bundle.digest for bundle in fp32_bundles(tmp_path)] == [first.digest]


@pytest.mark.slow
def test_both_precisions_of_a_bundle_are_measured(tmp_path: Path) -> None:
    data = write_plates(tmp_path / "plate")
    bundle = build_bundle(data, tmp_path / "models")

    with ProgressBars() as bars:
        measured = measure(bundle, data, tmp_path / "int8", 1, bars)

    assert (measured.category, measured.method, measured.seed) == ("plate", "small", 0)
    assert measured.fp32.keys() == measured.int8.keys() == {"image_auroc", "pixel_auroc", "aupro"}
    assert measured.fp32 != measured.int8
    assert all(time > 0 for time in measured.milliseconds)
    assert [bundle.manifest.precision for bundle in _bundles(tmp_path / "int8")] == ["int8"]


def _bundles(models: Path) -> list[Bundle]:
    return [Bundle.load(path.parent) for path in models.rglob("manifest.json")]
