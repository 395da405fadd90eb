from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from service.bundle.manifest import InputGeometry
from service.inspection.preparation import prepare


def pattern(height: int, width: int) -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5, columns * 5, rows + columns], axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (20, 100), (100, 20), (300, 10)])
def test_prepare_stretches_to_the_input_size(size: tuple[int, int]) -> None:
    prepared = prepare(pattern(*size), InputGeometry(height=64, width=64))

    assert prepared.shape == (64, 64, 3)
    assert prepared.dtype == np.uint8
    assert prepared.flags.c_contiguous


def test_shrinking_averages_so_that_a_thin_line_is_kept() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, 101] = 255  # one pixel wide: nearest or linear sampling would miss it

    prepared = prepare(image, InputGeometry(height=64, width=64))

    assert prepared[:, 25].min() >= 63


@pytest.mark.parametrize("change", [lambda image: image, lambda image: np.ascontiguousarray(image[::-1])])
def test_prepare_keeps_an_image_of_the_input_size(
    change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]],
) -> None:
    image = change(pattern(64, 64))

    np.testing.assert_array_equal(prepare(image, InputGeometry(height=64, width=64)), image)


def test_repeated_halving_averages_like_one_step() -> None:
    image = np.random.default_rng(0).integers(0, 255, (512, 768, 3), np.uint8)

    prepared = prepare(image, InputGeometry(height=64, width=96)).astype(int)

    exact = image.reshape(64, 8, 96, 8, 3).mean(axis=(1, 3))
    assert np.abs(prepared - exact).max() <= 1.5
