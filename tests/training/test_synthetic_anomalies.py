"""Synthetic anomalies: exact masks, value range, determinism."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from training.synthetic_anomalies import (
    FAINT_RECIPES,
    PUBLISHED_RECIPES,
    RECIPES,
    Image,
    Mask,
    cut_paste,
    faint,
    perlin_self,
    scar,
    structured_location,
    synthetic_anomaly,
)

Recipe = Callable[[Image, np.random.Generator], tuple[Image, Mask]]


def make_image(height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scaled(image: NDArray[np.uint8]) -> Image:
    return image.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("recipe", [*RECIPES, *PUBLISHED_RECIPES, *FAINT_RECIPES])
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_pixels_outside_the_mask_are_unchanged(recipe: Recipe, size: tuple[int, int]) -> None:
    image = scaled(make_image(*size))
    for seed in range(20):
        changed, mask = recipe(image, np.random.default_rng(seed))
        assert changed.dtype == np.float32
        assert mask.shape == size
        np.testing.assert_array_equal(changed[~mask], image[~mask])


@pytest.mark.parametrize("recipe", [*RECIPES, *PUBLISHED_RECIPES, *FAINT_RECIPES])
def test_anomalies_stay_in_range_and_are_visible(recipe: Recipe) -> None:
    image = scaled(make_image())
    visible = 0
    for seed in range(20):
        changed, mask = recipe(image, np.random.default_rng(seed))
        assert changed.min() >= 0
        assert changed.max() <= 1
        visible += bool(mask.any() and np.abs(changed - image)[mask].mean() > 0.02)
    assert visible >= 15


@pytest.mark.parametrize(
    "recipe", [perlin_self, cut_paste, scar, faint, lambda i, r: synthetic_anomaly((i * 255).astype(np.uint8), r)]
)
def test_same_seed_gives_the_same_anomaly(recipe: Recipe) -> None:
    image = scaled(make_image())
    first, first_mask = recipe(image, np.random.default_rng(3))
    second, second_mask = recipe(image, np.random.default_rng(3))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first_mask, second_mask)
    other, _ = recipe(image, np.random.default_rng(4))
    assert not np.array_equal(first, other)


def test_input_is_not_modified() -> None:
    image = make_image()
    before = image.copy()
    for seed in range(10):
        synthetic_anomaly(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before)


def test_scar_is_thin() -> None:
    image = scaled(make_image(128, 128))
    shares = [scar(image, np.random.default_rng(seed))[1].mean() for seed in range(30)]
    assert max(shares) < 0.03


def test_published_recipe_adds_an_upright_square_to_the_dimmed_image() -> None:
    image = scaled(make_image(128, 128)) * np.float32(0.7)
    changed, mask = synthetic_anomaly((image * 255).astype(np.uint8), np.random.default_rng(1), PUBLISHED_RECIPES)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert len(rows) == len(columns) == round(mask.sum() ** 0.5)
    before = (image * 255).astype(np.uint8).astype(np.float32) / 255
    piece = (changed - np.float32(0.2) * before)[mask].reshape(len(rows), len(rows), 3)
    side = len(rows)
    found = any(
        np.allclose(before[y : y + side, x : x + side], piece, atol=1e-5)
        for y in range(128 - side)
        for x in range(128 - side)
    )
    assert found


def part_on_an_empty_background() -> Image:
    """Return a plain image of 128 x 128 with a fine pattern in the middle 32 x 32."""
    image = np.full((128, 128, 3), 0.8, np.float32)
    image[48:80, 48:80] = np.random.default_rng(0).uniform(0, 0.5, (32, 32, 1))
    return image


def test_structured_locations_are_mostly_on_the_part() -> None:
    image = part_on_an_empty_background()
    rng = np.random.default_rng(1)
    locations = np.array([structured_location(image, rng) for _ in range(400)])
    on_part = ((locations >= 44) & (locations < 84)).all(1).mean()
    assert 0.9 < on_part < 1


@pytest.mark.slow
def test_structured_locations_cover_a_texture_and_a_plain_image() -> None:
    for image in (scaled(make_image(96, 128)), np.full((96, 128, 3), 0.5, np.float32)):
        rng = np.random.default_rng(2)
        locations = np.array([structured_location(image, rng) for _ in range(800)])
        quarters = np.histogram2d(locations[:, 1], locations[:, 0], bins=2, range=[[0, 96], [0, 128]])[0]
        assert quarters.min() > 150


def test_faint_anomalies_are_smaller_and_weaker_than_those_used_for_training() -> None:
    image = scaled(make_image(128, 128))

    def size_and_shade(recipe: Recipe) -> tuple[float, float]:
        pairs = [recipe(image, np.random.default_rng(seed)) for seed in range(40)]
        sizes = [mask.mean() for _, mask in pairs]
        shades = [abs(changed[mask].mean() - image.mean()) for changed, mask in pairs]
        return float(np.mean(sizes)), float(np.mean(shades))

    size, shade = size_and_shade(faint)
    assert size < 0.2 * size_and_shade(cut_paste)[0]
    assert shade < 0.6 * size_and_shade(cut_paste)[1]
