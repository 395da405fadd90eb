"""Selection of a product's energy floor from normal images alone.

The direction of a short feature vector is noise on a plain background and must not count there; on a fabric it is the
pattern. No single energy floor suits both (docs/benchmarks.md). The floor is therefore selected per product: faint
synthetic anomalies are added to normal images that were not trained on, and the floor that localises them best is
taken. The anomalies are small, faint and on the part, because strong ones are found with any floor. Neither defective
images nor the images of the calibration card take part in the selection.

Source: our own. See docs/methods.md, section *Shared parts*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.metrics import PixelScores
from training.synthetic_anomalies import FAINT_RECIPES, synthetic_anomaly

SYNTHETIC_IMAGES = 96  # approximate number of synthetic images that a floor is evaluated on
MapSource = Callable[[NDArray[np.uint8]], Callable[[], Iterable[Tensor]]]
"""uint8 `[N, H, W, 3]` -> a function without arguments -> anomaly maps in chunks, float32 `[n, 1, h, w]` each."""
FPR_LIMIT = 0.05  # a floor that finds all anomalies at a high false-positive rate is of no use


class HasEnergyFloor(Protocol):
    """A module that measures distances with an energy floor, in mean energies."""

    energy_floor: float


def select_energy_floor(
    distances: Iterable[HasEnergyFloor],
    calibrate: Callable[[], None],
    map_source: MapSource,
    reference: NDArray[np.uint8],
    energy_floors: Sequence[float],
    synthetic_images: int = SYNTHETIC_IMAGES,
) -> float:
    """Set the energy floor with the best AUPRO on synthetic anomalies and calibrate the map for it.

    AUPRO is integrated up to a false-positive rate of 5 %. Source: our own.

    Args:
        distances: The modules whose energy floor is set.
        calibrate: Measures the other constants of the map for the current energy floor.
        map_source: Given images, it returns the function that computes their maps for the current energy floor. What
            does not depend on the floor is computed once.
        reference: uint8 `[M, H, W, 3]`, normal images that were not trained on.
        energy_floors: Candidates in ascending order; the first of equally good ones is taken. With one candidate
            nothing is evaluated.
        synthetic_images: Approximate number of synthetic images that a floor is evaluated on; at least one for each
            reference image.

    Returns:
        The selected energy floor.
    """
    modules = list(distances)
    best = energy_floors[0]
    if len(energy_floors) > 1:
        synthetic, masks = _synthetic_images(reference, synthetic_images)
        with torch.inference_mode():
            clean_maps, synthetic_maps = map_source(reference), map_source(synthetic)

        def evaluate(energy_floor: float) -> float:
            _set(modules, energy_floor)
            calibrate()
            scores = PixelScores()
            with torch.inference_mode():
                for anomaly in _one_by_one(clean_maps()):
                    scores.add(anomaly, np.zeros(anomaly.shape, bool))
                for anomaly, mask in zip(_one_by_one(synthetic_maps()), masks, strict=True):
                    # The mask is max-pooled to the map's grid: an anomaly of three pixels still covers a cell.
                    pooled = F.adaptive_max_pool2d(torch.from_numpy(mask)[None, None].float(), anomaly.shape)
                    scores.add(anomaly, pooled[0, 0].numpy() > 0)
            return scores.figures(FPR_LIMIT).aupro

        best = max(energy_floors, key=evaluate)
    _set(modules, best)
    calibrate()
    return best


def _set(modules: Sequence[HasEnergyFloor], energy_floor: float) -> None:
    for module in modules:
        module.energy_floor = energy_floor


def _one_by_one(chunks: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
    for chunk in chunks:
        yield from chunk[:, 0].numpy()


def _synthetic_images(reference: NDArray[np.uint8], count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return about `count` copies with a faint anomaly each; every call returns the same ones."""
    repeats = max(1, count // len(reference))
    images, masks = [], []
    for number in range(repeats * len(reference)):
        rng = np.random.default_rng(number)
        synthetic, mask = synthetic_anomaly(reference[number % len(reference)], rng, FAINT_RECIPES)
        images.append(np.rint(synthetic * 255).astype(np.uint8))
        masks.append(mask)
    return np.stack(images), np.stack(masks)
