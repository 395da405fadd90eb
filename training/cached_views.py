"""What a run learns from: views of the good images, painted copies of them, and the frozen features of both.

A frozen teacher says the same about the same image every time, so each image goes through it once, before the
first step, and a step costs the student alone. That holds for augmented and for painted images too, as long as they
come from a pool that is drawn once: of a few hundred images each, which a run of a thousand steps sees a few times.
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
from training.pseudo_anomalies import PUBLISHED_RECIPES, RECIPES, pseudo_anomaly

UInt8Images = NDArray[np.uint8]
Features = Callable[[UInt8Images], list[Tensor]]

_PAINTING, _AUGMENTING, _DRAWING = 2, 3, 4  # kinds of chance, so that no two share a stream


@dataclass(frozen=True)
class Views:
    """Images and their frozen features.

    Attributes:
        images: uint8 `[V, S, S, 3]`, good images, augmented where the settings ask for it.
        frozen: what `Method.frozen_features` gives for them, first axis V.
        pseudo: uint8 `[P, S, S, 3]`, views with painted defects.
        pseudo_frozen: their features, first axis P.
        mask: bool `[P, S, S]`, where they were painted.
        source: int64 `[P]`, the view that each of them was painted on.
    """

    images: UInt8Images
    frozen: list[Tensor]
    pseudo: UInt8Images
    pseudo_frozen: list[Tensor]
    mask: NDArray[np.bool_]
    source: NDArray[np.int64]

    @classmethod
    def make(cls, images: UInt8Images, config: FitConfig, features: Features) -> Views:
        """Draws the pools from the seed alone, so that a resumed run sees the very same images.

        Args:
            images: uint8 `[N, S, S, 3]`, good images.
            config: augmentation, size of the pools, seed.
            features: `Method.frozen_features` over a whole pool.
        """
        views = augmented(images, config)
        pool = config.pseudo_pool if config.pseudo_share > 0 else 0
        source = np.resize(np.random.default_rng((config.seed, _DRAWING)).permutation(len(views)), pool)
        pseudo = np.empty((pool, *views.shape[1:]), np.uint8)
        mask = np.empty((pool, *views.shape[1:3]), np.bool_)
        recipes = RECIPES if config.pseudo_recipes == "mix" else PUBLISHED_RECIPES
        for number, view in enumerate(source):
            rng = np.random.default_rng((config.seed, _PAINTING, number))
            painted, mask[number] = pseudo_anomaly(views[view], rng, recipes)
            np.rint(painted * 255, out=painted)
            pseudo[number] = painted.astype(np.uint8)
        frozen = features(views)
        return cls(
            images=views,
            frozen=frozen,
            pseudo=pseudo,
            pseudo_frozen=features(pseudo) if pool else [level[:0] for level in frozen],
            mask=mask,
            source=source.astype(np.int64),
        )

    def batch(self, config: FitConfig, step: int) -> Batch:
        """A step's batch, from (seed, step) alone."""
        chosen = epoch_order(len(self.images), config.batch_size, config.seed, step)
        count = math.ceil(config.pseudo_share * config.batch_size) if len(self.pseudo) else 0
        painted = epoch_order(len(self.pseudo), count, config.seed + 1, step) if count else np.empty(0, np.int64)
        source = self.source[painted]
        return Batch(
            clean=to_pixels(torch.from_numpy(self.images[chosen])),
            frozen=_rows(self.frozen, chosen),
            pseudo=to_pixels(torch.from_numpy(self.pseudo[painted])),
            pseudo_frozen=_rows(self.pseudo_frozen, painted),
            origin=to_pixels(torch.from_numpy(self.images[source])),
            origin_frozen=_rows(self.frozen, source),
            mask=torch.from_numpy(self.mask[painted])[:, None].float(),
            step=step,
            steps=config.iterations,
        )


def augmented(images: UInt8Images, config: FitConfig) -> UInt8Images:
    """Good images as they might have been taken as well.

    Args:
        images: uint8 `[N, S, S, 3]`.
        config: `augment` "none" returns the images themselves; "rotate" turns each by any angle (for parts that lie
            as they fall), "mild" shifts, turns and brightens a little. At least `views` images, every image equally
            often.

    Returns:
        uint8 `[V, S, S, 3]`.
    """
    if config.augment == "none":
        return images
    repeats = max(1, math.ceil(config.views / len(images)))
    out = np.empty((repeats * len(images), *images.shape[1:]), np.uint8)
    for number in range(len(out)):
        rng = np.random.default_rng((config.seed, _AUGMENTING, number))
        out[number] = _moved(images[number % len(images)], rng, config.augment)
    return out


def _moved(image: UInt8Images, rng: np.random.Generator, kind: str) -> UInt8Images:
    side = image.shape[0]
    turn, shift, gain = (180.0, 0.0, 0.0) if kind == "rotate" else (3.0, 0.02 * side, 0.05)
    matrix = cv2.getRotationMatrix2D((side / 2 - 0.5, side / 2 - 0.5), rng.uniform(-turn, turn), 1.0)
    matrix[:, 2] = matrix[:, 2] + rng.uniform(-shift, shift, 2)
    # The edge's colour goes on outwards: black corners would be learnt as part of what is normal.
    moved = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    brightened = np.asarray(moved, np.float32) * np.float32(1 + rng.uniform(-gain, gain))
    return np.asarray(np.rint(np.clip(brightened, 0, 255)), np.uint8)


def epoch_order(count: int, size: int, seed: int, step: int) -> NDArray[np.int64]:
    """The step's numbers out of 0..count-1: each epoch is a permutation of its own, and batches run over its border."""
    positions = np.arange(step * size, (step + 1) * size)
    epochs = {int(e): np.random.default_rng((seed, 1, int(e))).permutation(count) for e in set(positions // count)}
    return np.array([epochs[int(p // count)][p % count] for p in positions], np.int64)


def _rows(levels: Sequence[Tensor], chosen: NDArray[np.int64]) -> list[Tensor]:
    index = torch.from_numpy(chosen)
    return [level[index].float() for level in levels]
