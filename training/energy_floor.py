"""The energy floor of a product's distances, chosen by what good images alone can tell. Our own.

How much a short feature vector's direction is worth differs from product to product: on a plain background it is noise
and must not count, on a fabric it is the pattern itself. No single floor serves both (docs/benchmarks.md). So
defects are painted into good images that training did not see, and the floor that shows them best is taken. They are
small, faint and on the part: what is easy to see, every floor shows. No defective image and no image of the
calibration card has a say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.maps import PyramidDistance
from training.metrics import PixelScores
from training.pixels import in_chunks
from training.pseudo_anomalies import FAINT_RECIPES, pseudo_anomaly

PAINTED = 96  # painted images that a floor is judged by, about
FPR_LIMIT = 0.05  # a floor that finds everything at the price of a map full of noise is of no use


def choose_floor(
    distances: Iterable[PyramidDistance],
    calibrate: Callable[[], None],
    anomaly_map: Callable[[Tensor], Tensor],
    reference: NDArray[np.uint8],
    floors: Sequence[float],
) -> float:
    """Sets the floor with the best AUPRO (to a false-positive rate of 5 %) of painted defects, and calibrates for it.

    Args:
        distances: where the floor is to be set.
        calibrate: measures the map's other constants anew for the floor that is set.
        anomaly_map: float32 `[N, 3, H, W]` in [0, 1] -> float32 `[N, 1, h, w]`.
        reference: uint8 `[M, H, W, 3]`, good images that training did not see.
        floors: to choose from, ascending; of equals the first is taken.

    Returns:
        The chosen floor.
    """
    parts = list(distances)
    painted, masks = _painted(reference)

    def judge(floor: float) -> float:
        _set(parts, floor)
        calibrate()
        scores = PixelScores()
        with torch.inference_mode():
            for anomaly in _maps(anomaly_map, reference):
                scores.add(anomaly, np.zeros(anomaly.shape, bool))
            for anomaly, mask in zip(_maps(anomaly_map, painted), masks, strict=True):
                # On the map's own grid: a defect of three pixels still has a cell.
                small = F.adaptive_max_pool2d(torch.from_numpy(mask)[None, None].float(), anomaly.shape)
                scores.add(anomaly, small[0, 0].numpy() > 0)
        return scores.figures(FPR_LIMIT).aupro

    best = max(floors, key=judge) if len(floors) > 1 else floors[0]
    _set(parts, best)
    calibrate()
    return best


def _set(parts: Sequence[PyramidDistance], floor: float) -> None:
    for part in parts:
        part.floor = floor


def _maps(anomaly_map: Callable[[Tensor], Tensor], images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    for pixels in in_chunks(images):
        yield from anomaly_map(pixels)[:, 0].numpy()


def _painted(reference: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """About `PAINTED` painted copies, the same ones every time."""
    repeats = max(1, PAINTED // len(reference))
    images, masks = [], []
    for number in range(repeats * len(reference)):
        painted, mask = pseudo_anomaly(reference[number % len(reference)], np.random.default_rng(number), FAINT_RECIPES)
        images.append(np.rint(painted * 255).astype(np.uint8))
        masks.append(mask)
    return np.stack(images), np.stack(masks)
