"""The peers' table, resuming, and PatchCore's selection of patches; anomalib is not needed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.marked_section import with_section
from benchmarks.peers.coreset import greedy_centres, projected_metric
from benchmarks.peers.plateau import has_converged
from benchmarks.peers.results import (
    COLUMNS,
    PEERS,
    OtherSettings,
    Result,
    pending,
    read_results,
    result_path,
    rows,
    settings_of,
    write_table,
)

SETTINGS: dict[str, Any] = {"input_size": 256, "seed": 0}
CATEGORIES = ["nut", "bolt"]


def result(method: str, category: str, image_auroc: float = 0.9) -> Result:
    return Result(
        method=method,
        category=category,
        image_auroc=image_auroc,
        pixel_auroc=0.95,
        aupro=0.875,
        pixel_average_precision=0.5,
        train_seconds=12.0,
        ms_per_image=34.5,
        settings=SETTINGS,
        details={"train_cpu_seconds": 12.0, "ms_per_image_processor": 34.0},
    )


def test_existing_results_are_not_measured_again(tmp_path: Path) -> None:
    first = result("padim", "nut")
    first.write(tmp_path)

    missing = pending(tmp_path, ["padim", "stfpm"], CATEGORIES, SETTINGS)

    assert missing == [("padim", "bolt"), ("stfpm", "nut"), ("stfpm", "bolt")]
    assert read_results(tmp_path, PEERS, CATEGORIES) == [first]


def test_interrupted_write_does_not_count_as_a_result(tmp_path: Path) -> None:
    result_path(tmp_path, "nut", "padim").with_suffix(".tmp").write_text('{"method": "pad')

    assert ("padim", "nut") in pending(tmp_path, PEERS, CATEGORIES, SETTINGS)


def test_results_with_other_settings_are_neither_mixed_in_nor_overwritten(tmp_path: Path) -> None:
    result("padim", "nut").write(tmp_path)

    with pytest.raises(OtherSettings, match="input_size was 256 and is now 320") as raised:
        pending(tmp_path, PEERS, CATEGORIES, {**SETTINGS, "input_size": 320})

    assert "nut-padim.json" in str(raised.value)


def test_settings_of_one_peer_do_not_affect_the_others(tmp_path: Path) -> None:
    settings = {**SETTINGS, "stfpm_steps": 100, "patchcore_coreset": 0.05}
    replace(result("stfpm", "nut"), settings=settings_of("stfpm", settings)).write(tmp_path)
    replace(result("padim", "nut"), settings=settings_of("padim", settings)).write(tmp_path)
    longer = {**settings, "stfpm_steps": 200}

    assert settings_of("stfpm", settings) == {**SETTINGS, "stfpm_steps": 100}
    assert pending(tmp_path, ["padim"], ["nut"], longer) == []
    with pytest.raises(OtherSettings, match="stfpm_steps was 100 and is now 200"):
        pending(tmp_path, ["stfpm"], ["nut"], longer)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 7, False),  # two windows are not complete
        ([1.0] * 8, True),
        ([1.0] * 4 + [0.9] * 4, False),
        ([1.0] * 4 + [0.96] * 4, True),
        ([1.0, 0.5, 1.5, 1.0] + [1.1] * 4, True),
        ([9.0] * 8 + [4.0] * 4, False),  # only the last two windows count
    ],
)
def test_training_ends_when_the_loss_decreases_by_less_than_the_gain(losses: list[float], expected: bool) -> None:
    assert has_converged(losses, window=4, gain=0.05) is expected


def test_mean_of_a_peer_follows_its_categories() -> None:
    table = rows([result("padim", "nut", 0.8), result("padim", "bolt", 1.0), result("stfpm", "nut")])

    assert [(row["method"], row["category"]) for row in table] == [
        ("padim", "nut"),
        ("padim", "bolt"),
        ("padim", "mean of 2"),
        ("stfpm", "nut"),
    ]
    assert table[2]["image_auroc"] == pytest.approx(0.9)
    assert all(tuple(row) == COLUMNS for row in table)


def test_the_table_is_written_as_markdown_in_percent_and_as_json_in_shares(tmp_path: Path) -> None:
    text = write_table(tmp_path, [replace(result("patchcore", "nut"), image_auroc=0.98765)])

    assert text.splitlines()[0] == (
        "| method | category | image AUROC % | pixel AUROC % | AUPRO % | pixel AP % | training, processor s "
        "| processor ms per image |"
    )
    assert text.splitlines()[2] == "| patchcore | nut | 98.77 | 95.00 | 87.50 | 50.00 | 12 | 34 |"
    assert (tmp_path / "peers.md").read_text() == text
    assert json.loads((tmp_path / "peers.json").read_text())[0]["image_auroc"] == 0.98765


def test_only_the_named_section_of_a_document_is_replaced() -> None:
    document = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n<!-- two -->\nkept\n<!-- /two -->\n"

    assert with_section(document, "one", "| new |\n") == document.replace("\nold\n", "\n\n| new |\n\n")
    with pytest.raises(ValueError, match="one section 'three'"):
        with_section(document, "three", "")


def naive_centres(points: torch.Tensor, count: int, first: int) -> list[int]:
    """Compare every point with every centre, as anomalib does."""
    chosen, nearest = [first], torch.full((len(points),), torch.inf)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).norm(dim=1))
        nearest[chosen[-1]] = 0
        chosen.append(int(nearest.argmax()))
    return chosen


@pytest.mark.parametrize("spread", [0.05, 3.0], ids=["clusters", "one cloud"])
def test_skipping_patches_does_not_change_the_selection(spread: float) -> None:
    draw = torch.Generator().manual_seed(0)
    middles = torch.randn(20, 6, generator=draw)
    points = middles.repeat_interleave(40, dim=0) + spread * torch.randn(800, 6, generator=draw)

    assert greedy_centres(points, 200, first=7).tolist() == naive_centres(points, 200, first=7)


def test_copies_of_a_centre_are_selected_last() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])

    assert greedy_centres(points, 3, first=0).tolist() == [0, 3, 2]


def test_distances_equal_those_of_the_projected_features() -> None:
    draw = torch.Generator().manual_seed(0)
    features, projection = torch.randn(50, 8, generator=draw), torch.randn(30, 8, generator=draw)

    points = projected_metric(features, projection)

    assert points.shape == features.shape
    expected = torch.pdist((features @ projection.T).double())
    torch.testing.assert_close(torch.pdist(points.double()), expected, rtol=1e-5, atol=1e-4)
