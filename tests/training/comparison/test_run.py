"""The comparison: cells are run once, resumed and shared between processes; the tables summarise them."""

import dataclasses
import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.small_product import write_plates
from tests.training.small_trained_method import CHANNELS, SmallTrainedMethod
from training.cli.main import spread_lists
from training.comparison.cells import Cell, Result, finished, make_cells, write_result
from training.comparison.run import categories_in, compare
from training.comparison.tables import markdown, summarise, write_tables
from training.config import FitConfig
from training.errors import InvalidOption, NoImagesFound
from training.fit import Progress
from training.methods import METHODS

CONFIG = FitConfig(
    method=SmallTrainedMethod.name,
    input_size=64,
    iterations=3,
    batch_size=4,
    pseudo_pool=8,
    warmup_steps=1,
    threads=1,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a method with a small network: a comparison is the same with every network."""
    monkeypatch.setitem(METHODS, SmallTrainedMethod.name, SmallTrainedMethod)


class Watched:
    """A reporter that records stages and training steps, and a stop request after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stages: list[str] = []
        self.steps: list[int] = []
        self.stop_after = stop_after

    def note(self, text: str) -> None:
        pass

    def stage(self, title: str, total: int) -> Callable[[int, str], None]:
        assert total > 0
        self.stages.append(title)

        def advance(done: int, _note: str) -> None:
            if title == "train":
                self.steps.append(done)

        return advance

    def should_stop(self, progress: Progress) -> bool:
        return progress.step == self.stop_after


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_plates(root / "plate")
    return root


def result(image_auroc: float, seconds: float = 10.0) -> Result:
    figures = {"image_auroc": image_auroc, "pixel_auroc": 0.9, "aupro": 0.8, "pixel_average_precision": 0.5}
    return Result(figures, seconds, seconds, 2_000_000, 1.5, 12.0, "models/x")


@pytest.mark.slow
def test_cell_is_run_once_and_again_when_its_settings_change(data: Path, tmp_path: Path) -> None:
    (cell,) = make_cells(["plate"], [CONFIG], [0])
    first, again, changed = Watched(), Watched(), Watched()
    results = compare(data, [cell], tmp_path, lambda _: first)
    assert first.steps == [1, 2, 3]
    assert {"image_auroc", "aupro"} <= results[cell.name].figures.keys()
    assert results[cell.name].parameters >= (48 + 1) * CHANNELS  # the kernel of 4 x 4 x 3, and the mean
    assert results[cell.name].gmacs == round((64 // 4) ** 2 * 48 * CHANNELS / 1e9, 3) > 0
    assert (tmp_path / results[cell.name].bundle / "manifest.json").is_file()
    for name in ("comparison.md", "comparison.json", "comparison.html", f"{cell.name}/report.html"):
        assert (tmp_path / name).stat().st_size > 200
    assert not (tmp_path / cell.name / "run").exists()
    page = (tmp_path / "comparison.html").read_text()
    facts = json.loads((tmp_path / cell.name / "overlays.json").read_text())
    assert [fact["file"] for fact in facts] == ["spot/000.png", "spots/000.png"]
    for number, fact in enumerate(facts):
        assert f'{fact["file"]} · <strong class="{fact["decision"]}">' in page
        for kind in ("original", "overlay"):
            assert (tmp_path / cell.name / f"{kind}{number}.jpg").is_file()
            assert f"{cell.name}/{kind}{number}.jpg" in page

    assert compare(data, [cell], tmp_path, lambda _: again) == results
    assert again.stages == []

    other = Cell("plate", dataclasses.replace(cell.config, lr=1e-3))
    compare(data, [other], tmp_path, lambda _: changed)
    assert changed.steps == [1, 2, 3]


@pytest.mark.slow
def test_interrupted_cell_continues_from_its_checkpoint(data: Path, tmp_path: Path) -> None:
    (cell,) = make_cells(["plate"], [CONFIG], [0])
    stopped = Watched(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        compare(data, [cell], tmp_path, lambda _: stopped, stopped.should_stop)
    assert stopped.steps == [1, 2]
    assert finished(tmp_path, cell) is None
    resumed = Watched()
    compare(data, [cell], tmp_path, lambda _: resumed)
    assert resumed.steps == [3]


def test_cell_of_another_process_is_awaited_and_not_run_twice(tmp_path: Path) -> None:
    cells = make_cells(["plate"], [CONFIG], [0, 1])
    with (tmp_path / f"{cells[0].name}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def finish_the_other(cell: Cell) -> Watched:
            # Only the second cell is run here; meanwhile the other process finishes the first.
            assert cell == cells[1]
            (tmp_path / cells[0].name).mkdir()
            write_result(tmp_path, cells[0], result(0.9))
            fcntl.flock(other, fcntl.LOCK_UN)
            raise NotImplementedError

        with pytest.raises(NotImplementedError):
            compare(tmp_path, cells, tmp_path, finish_the_other)
    stored = finished(tmp_path, cells[0])
    assert stored is not None
    assert stored.figures["image_auroc"] == 0.9


def test_means_are_over_categories_and_spreads_over_seeds(tmp_path: Path) -> None:
    cells = make_cells(["a", "b"], [CONFIG], [0, 1])
    given = {"a": (0.90, 0.94), "b": (1.00, 1.00)}
    results = {cell.name: result(given[cell.category][cell.config.seed]) for cell in cells}
    (rows,) = summarise(cells, results).values()
    assert rows["a"].mean["image_auroc"] == pytest.approx(92.0)
    assert rows["a"].spread["image_auroc"] == pytest.approx(8**0.5)  # of 90 and 94, with n - 1
    assert rows["mean"].mean["image_auroc"] == pytest.approx(96.0)
    assert rows["mean"].spread["image_auroc"] == pytest.approx(2**0.5)  # of 95 and 97
    text = markdown({"drd": rows})
    assert "| drd | **mean** | 2 | 96.00 ± 1.41 |" in text


def test_mean_needs_every_category() -> None:
    cells = make_cells(["a", "b"], [CONFIG], [0])
    (rows,) = summarise(cells, {cells[0].name: result(0.9)}).values()
    assert set(rows) == {"a"}


def test_tables_hold_finished_cells_only(tmp_path: Path) -> None:
    cells = make_cells(["a", "b"], [CONFIG], [0])
    (tmp_path / cells[0].name).mkdir()
    write_result(tmp_path, cells[0], result(0.875))
    write_tables(tmp_path, cells)
    assert list(json.loads((tmp_path / "comparison.json").read_text())["runs"]) == [cells[0].name]
    page = (tmp_path / "comparison.html").read_text()
    assert "87.50" in page
    assert "<h2>b</h2>" not in page


def test_only_declared_categories_are_rotated() -> None:
    cells = make_cells(["screw", "tile"], [CONFIG], [0], rotating=["screw"])
    assert {cell.category: cell.config.augment for cell in cells} == {"screw": "rotate", "tile": "none"}
    with pytest.raises(InvalidOption, match="'bolt'"):
        make_cells(["screw"], [CONFIG], [0], rotating=["bolt"])


def test_categories_are_folders_with_a_test_split(data: Path, tmp_path: Path) -> None:
    (data / "notes").mkdir(exist_ok=True)
    assert categories_in(data) == ["plate"]
    with pytest.raises(InvalidOption, match="'plates'"):
        categories_in(data, ["plates"])
    with pytest.raises(NoImagesFound):
        categories_in(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("compare --seeds 0 1 2 --out x", "compare --seeds 0 --seeds 1 --seeds 2 --out x"),
        ("compare --methods drd nnet", "compare --methods drd --methods nnet"),
        ("compare --seeds 0 --seeds 1", "compare --seeds 0 --seeds 1"),
        ("fit --data a --product b", "fit --data a --product b"),
    ],
)
def test_option_takes_several_values(given: str, expected: str) -> None:
    assert spread_lists(given.split()) == expected.split()
