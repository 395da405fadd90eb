"""The solar cells of `make demo-train`, with invented cells: the licence of the real ones does not allow a copy."""

from pathlib import Path

import pytest

from training.dataset import scan
from training.demo.elpv import pick_samples, read_labels, unpack

ROWS = (
    ("mono", "0.0", 40),
    ("mono", "1.0", 6),
    ("mono", "0.3333333333333333", 5),
    ("poly", "0.0", 30),
    ("mono", "1.0", 2),
)


@pytest.fixture
def package_data(tmp_path: Path) -> Path:
    """Write a folder as in the package: images, and a table whose columns are separated by several blanks."""
    (tmp_path / "images").mkdir()
    lines, number = [], 0
    for kind, probability, count in ROWS:
        for _ in range(count):
            number += 1
            name = f"images/cell{number:04d}.png"
            (tmp_path / name).write_bytes(f"{kind} {probability} {number}".encode())
            lines.append(f"{name}  {probability:<20} {kind}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def contents(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


def test_labels_are_read(package_data: Path) -> None:
    cells = read_labels(package_data)

    assert len(cells) == 83
    assert (cells[0].path.name, cells[0].defect_probability, cells[0].kind) == ("cell0001.png", 0.0, "mono")
    assert cells[46].defect_probability == pytest.approx(1 / 3)
    assert [cells[number].run for number in (0, 50, 51, 80, 82)] == [1, 1, 1, 1, 2]


def test_only_clear_monocrystalline_cells_are_used(package_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"

    unpack(read_labels(package_data), target, training=30)

    good = contents(target / "train/good") + contents(target / "test/good")
    assert len(contents(target / "train/good")) == 30
    assert len(set(good)) == 40
    assert all(text.startswith("mono 0.0 ") for text in good)
    defective = {number: contents(target / f"test/defective-run{number}") for number in (1, 2)}
    assert all(text.startswith("mono 1.0 ") for texts in defective.values() for text in texts)
    assert {number: len(texts) for number, texts in defective.items()} == {1: 6, 2: 2}
    assert len(scan(target).test) == 18


def test_unpacking_again_replaces_and_repeats(package_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    unpack(read_labels(package_data), target, training=30)
    before = contents(target / "train/good")
    (target / "train/good/leftover.png").write_bytes(b"from an older run")

    unpack(read_labels(package_data), target, training=30)

    assert contents(target / "train/good") == before


def test_samples_are_of_both_kinds(package_data: Path, tmp_path: Path) -> None:
    unpack(read_labels(package_data), tmp_path / "out", training=30)

    pick_samples(tmp_path / "out", tmp_path / "samples")

    names = sorted(path.name.split("-")[0] for path in (tmp_path / "samples").iterdir())
    assert names == ["defective"] * 3 + ["good"] * 3
