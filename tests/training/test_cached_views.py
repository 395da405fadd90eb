"""Training data of a run: drawn from the seed alone, exact masks, features in the order of the images."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.test_fit import TINY, parts
from training.cached_views import UInt8Images, Views, augmented, epoch_order


def means(images: UInt8Images) -> list[Tensor]:
    """Return the mean of each image, which identifies it."""
    return [torch.from_numpy(images.reshape(len(images), -1).mean(1, keepdims=True).astype(np.float32))]


def test_pools_and_batches_follow_from_the_seed() -> None:
    first, again = Views.make(parts(8), TINY, means), Views.make(parts(8), TINY, means)
    assert np.array_equal(first.synthetic, again.synthetic)
    one, other = first.batch(TINY, 5), again.batch(TINY, 5)
    assert torch.equal(one.synthetic, other.synthetic)
    assert torch.equal(one.mask, other.mask)
    assert not torch.equal(one.synthetic, first.batch(TINY, 6).synthetic)
    another = Views.make(parts(8), dataclasses.replace(TINY, seed=99), means)
    assert not np.array_equal(first.synthetic, another.synthetic)


def test_an_epoch_visits_every_image_once() -> None:
    order = [int(number) for step in (0, 1) for number in epoch_order(8, 4, seed=3, step=step)]
    assert sorted(order) == list(range(8))


def test_synthetic_images_equal_their_origin_outside_the_mask() -> None:
    batch = Views.make(parts(8), TINY, means).batch(TINY, 0)
    assert len(batch.synthetic) == 2
    outside = (batch.mask == 0).expand_as(batch.synthetic)
    assert torch.equal(batch.synthetic[outside], batch.origin[outside])
    assert not torch.equal(batch.synthetic, batch.origin)


def test_features_belong_to_their_images() -> None:
    batch = Views.make(parts(8), TINY, means).batch(TINY, 1)
    for pixels, features in (
        (batch.clean, batch.frozen),
        (batch.synthetic, batch.synthetic_frozen),
        (batch.origin, batch.origin_frozen),
    ):
        torch.testing.assert_close(features[0][:, 0], 255 * pixels.mean((1, 2, 3)), rtol=1e-4, atol=1e-3)


def test_without_synthetic_images_a_batch_has_none() -> None:
    config = dataclasses.replace(TINY, pseudo_share=0.0)
    batch = Views.make(parts(8), config, means).batch(config, 0)
    assert len(batch.synthetic) == len(batch.mask) == 0
    assert [len(level) for level in (*batch.synthetic_frozen, *batch.origin_frozen)] == [0, 0]


@pytest.mark.parametrize("kind", ["rotate", "mild"])
def test_augmentation_repeats_every_image_equally_often(kind: Literal["rotate", "mild"]) -> None:
    config = dataclasses.replace(TINY, augment=kind, views=20)
    views = augmented(parts(8), config)
    assert views.shape == (24, 64, 64, 3)
    assert len({view.tobytes() for view in views}) == 24
    assert np.array_equal(views, augmented(parts(8), config))


def test_rotation_leaves_no_black_corners() -> None:
    bright = np.full((4, 64, 64, 3), 200, np.uint8)
    views = augmented(bright, dataclasses.replace(TINY, augment="rotate", views=8))
    assert views.min() >= 199


def test_without_augmentation_the_images_are_the_views() -> None:
    images = parts(8)
    assert augmented(images, TINY) is images
