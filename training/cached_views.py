"""Training data of a run: views of the normal images, images with synthetic anomalies, and the frozen features of both.

A frozen teacher returns the same features for the same image, so each image passes through it once, before the first
step, and a training step costs the student alone. Augmented and synthetic images are therefore drawn once into pools
of a few hundred images each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import FitConfig
from training.methods.base import Batch
from training.pixels import to_pixels
from training.synthetic_anomalies import PUBLISHED_RECIPES, RECIPES, synthetic_anomaly

UInt8Images = NDArray[np.uint8]
Features = Callable[[UInt8Images], list[Tensor]]

# Part of the seed of each random stream, so that no two purposes share one; 1 is used by `epoch_order`.
_SYNTHESIS, _AUGMENTATION, _SELECTION = 2, 3, 4


@dataclass(frozen=True)
class Views:
    """The image pools of a run and their frozen features.

    Attributes:
        images: uint8 `[V, S, S, 3]`, normal images, augmented if the settings request it.
        frozen: The result of `Method.frozen_features` for them, first axis V.
        synthetic: uint8 `[P, S, S, 3]`, views with a synthetic anomaly each.
        synthetic_frozen: The result of `Method.frozen_features` for them, first axis P.
        mask: bool `[P, S, S]`, true where an image was changed.
        source: int64 `[P]`, index of the view that each synthetic image was made from.
    """

    images: UInt8Images
    frozen: list[Tensor]
    synthetic: UInt8Images
    synthetic_frozen: list[Tensor]
    mask: NDArray[np.bool_]
    source: NDArray[np.int64]

    @classmethod
    def make(cls, images: UInt8Images, config: FitConfig, features: Features) -> Views:
        """Draw the pools from the seed alone, so that a resumed run uses the same images.

        Args:
            images: uint8 `[N, S, S, 3]`, normal images.
            config: Augmentation, size of the pools and seed.
            features: `Method.frozen_features` applied to a whole pool.

        Returns:
            The pools and their features.
        """
        views = augmented(images, config)
        pool = config.pseudo_pool if config.pseudo_share > 0 else 0
        source = np.resize(np.random.default_rng((config.seed, _SELECTION)).permutation(len(views)), pool)
        synthetic = np.empty((pool, *views.shape[1:]), np.uint8)
        mask = np.empty((pool, *views.shape[1:3]), np.bool_)
        recipes = RECIPES if config.pseudo_recipes == "mix" else PUBLISHED_RECIPES
        for number, view in enumerate(source):
            rng = np.random.default_rng((config.seed, _SYNTHESIS, number))
            image, mask[number] = synthetic_anomaly(views[view], rng, recipes)
            np.rint(image * 255, out=image)
            synthetic[number] = image.astype(np.uint8)
        frozen = features(views)
        return cls(
            images=views,
            frozen=frozen,
            synthetic=synthetic,
            synthetic_frozen=features(synthetic) if pool else [level[:0] for level in frozen],
            mask=mask,
            source=source.astype(np.int64),
        )

    def batch(self, config: FitConfig, step: int) -> Batch:
        """Return the batch of a step, which depends on the seed and the step alone.

        Args:
            config: Batch size, share of synthetic images, seed and number of steps.
            step: From 0.

        Returns:
            `config.batch_size` views and, if there are any, `ceil(pseudo_share * batch_size)` synthetic images.
        """
        chosen = epoch_order(len(self.images), config.batch_size, config.seed, step)
        count = math.ceil(config.pseudo_share * config.batch_size) if len(self.synthetic) else 0
        synthetic = epoch_order(len(self.synthetic), count, config.seed + 1, step) if count else np.empty(0, np.int64)
        source = self.source[synthetic]
        return Batch(
            clean=to_pixels(torch.from_numpy(self.images[chosen])),
            frozen=_rows(self.frozen, chosen),
            synthetic=to_pixels(torch.from_numpy(self.synthetic[synthetic])),
            synthetic_frozen=_rows(self.synthetic_frozen, synthetic),
            origin=to_pixels(torch.from_numpy(self.images[source])),
            origin_frozen=_rows(self.frozen, source),
            mask=torch.from_numpy(self.mask[synthetic])[:, None].float(),
            step=step,
            steps=config.iterations,
        )


def augmented(images: UInt8Images, config: FitConfig) -> UInt8Images:
    """Augment normal images.

    Args:
        images: uint8 `[N, S, S, 3]`.
        config: `augment` "none" returns the images themselves; "rotate" rotates each by a random angle (for parts in
            any orientation); "mild" applies small shifts, rotations and changes of brightness. There are at least
            `views` results, the same number for each image.

    Returns:
        uint8 `[V, S, S, 3]`.
    """
    if config.augment == "none":
        return images
    repeats = max(1, math.ceil(config.views / len(images)))
    out = np.empty((repeats * len(images), *images.shape[1:]), np.uint8)
    for number in range(len(out)):
        rng = np.random.default_rng((config.seed, _AUGMENTATION, number))
        out[number] = _augment(images[number % len(images)], rng, config.augment)
    return out


def _augment(image: UInt8Images, rng: np.random.Generator, kind: str) -> UInt8Images:
    side = image.shape[0]
    angle, shift, gain = (180.0, 0.0, 0.0) if kind == "rotate" else (3.0, 0.02 * side, 0.05)
    matrix = cv2.getRotationMatrix2D((side / 2 - 0.5, side / 2 - 0.5), rng.uniform(-angle, angle), 1.0)
    matrix[:, 2] = matrix[:, 2] + rng.uniform(-shift, shift, 2)
    # Border pixels are repeated outwards: black corners would become part of the normal images.
    moved = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    brightened = np.asarray(moved, np.float32) * np.float32(1 + rng.uniform(-gain, gain))
    return np.asarray(np.rint(np.clip(brightened, 0, 255)), np.uint8)


def epoch_order(count: int, size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Return the indices of a step's batch.

    Each epoch is a permutation of its own, and a batch may extend over the border of two epochs.

    Args:
        count: Number of images.
        size: Number of indices to return.
        seed: Together with the epoch it determines the permutation.
        step: From 0.

    Returns:
        int64 `[size]`, values in 0..count-1.
    """
    positions = np.arange(step * size, (step + 1) * size)
    epochs = {int(e): np.random.default_rng((seed, 1, int(e))).permutation(count) for e in set(positions // count)}
    return np.array([epochs[int(p // count)][p % count] for p in positions], np.int64)


def _rows(levels: Sequence[Tensor], chosen: NDArray[np.int64]) -> list[Tensor]:
    index = torch.from_numpy(chosen)
    return [level[index].float() for level in levels]
