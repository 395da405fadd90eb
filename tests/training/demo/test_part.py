"""The images of the demo product: exact masks, and the same part for the same seed."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.demo.defects import DEFECTS, Defect
from training.demo.part import render_part, write_dataset

SIZE = 256  # a quarter of the pixels, to save time


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_mask_covers_exactly_the_pixels_that_the_defect_changes(defect: Defect, seed: int) -> None:
    good, nothing = render_part(np.random.default_rng(seed), size_px=SIZE)
    bad, mask = render_part(np.random.default_rng(seed), defect, size_px=SIZE)
    changed = (good != bad).any(axis=2)

    assert not nothing.any()
    assert not (changed & ~mask).any(), "a pixel outside the mask changed"
    # At the edge of a defect a change may be lost when it is rounded to eight bits.
    assert changed[mask].mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("seed", range(4))
def test_every_defect_can_be_seen(defect: Defect, seed: int) -> None:
    good, _ = render_part(np.random.default_rng([7, seed]), size_px=SIZE)
    bad, mask = render_part(np.random.default_rng([7, seed]), defect, size_px=SIZE)
    difference = np.abs(bad.astype(int) - good.astype(int)).max(axis=2)

    assert 60 <= mask.sum() <= 0.05 * SIZE * SIZE
    assert np.percentile(difference[mask], 75) >= 16, "the defect is not visible"


def test_same_seed_draws_the_same_part_and_another_seed_another() -> None:
    first, _ = render_part(np.random.default_rng(3), size_px=SIZE)
    again, _ = render_part(np.random.default_rng(3), size_px=SIZE)
    other, _ = render_part(np.random.default_rng(4), size_px=SIZE)

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_generator_draws_one_part_after_another() -> None:
    rng = np.random.default_rng(3)

    assert not np.array_equal(render_part(rng, size_px=SIZE)[0], render_part(rng, size_px=SIZE)[0])


def test_image_is_rgb_bytes_of_the_size_asked_for() -> None:
    image, mask = render_part(np.random.default_rng(0), "stain", size_px=SIZE)
    stained = image[mask].mean(axis=0)

    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert mask.dtype == np.bool_
    assert stained[0] > stained[2], "a stain is brown: more red than blue"


@pytest.mark.parametrize(
    ("defect", "size_px", "message"),
    [("crack", SIZE, "choose one of scratch, dent"), (None, 64, "at least 128")],
)
def test_invalid_arguments_are_refused(defect: Defect | None, size_px: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_part(np.random.default_rng(0), defect, size_px=size_px)


@pytest.mark.slow
def test_folder_has_the_mvtec_layout_and_grows_by_appending(tmp_path: Path) -> None:
    write_dataset(tmp_path / "small", train=2, test=1, seed=5, size_px=128)
    write_dataset(tmp_path / "large", train=3, test=1, seed=5, size_px=128)
    small = {path.relative_to(tmp_path / "small"): path.read_bytes() for path in (tmp_path / "small").rglob("*.*")}
    large = {path.relative_to(tmp_path / "large"): path.read_bytes() for path in (tmp_path / "large").rglob("*.*")}

    assert set(large) - set(small) == {Path("train/good/002.jpg")}
    assert all(large[name] == content for name, content in small.items())
    assert {str(name) for name in small if "dent" in str(name)} == {
        "test/dent/000.jpg",
        "ground_truth/dent/000_mask.png",
    }
    mask = cv2.imread(str(tmp_path / "small/ground_truth/dent/000_mask.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.slow
def test_module_runs_as_a_program_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[1:] = sys.argv[1:];"
        "import runpy; runpy.run_module('training.demo.part', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "--train", "1", "--test", "1", "--size", "128"]
    subprocess.run(command, check=True, timeout=120)

    assert len(list(tmp_path.rglob("*.jpg"))) == 1 + 1 + len(DEFECTS)
