"""Random images and training batches for tests of the methods."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.methods.base import Batch, Method
from training.pixels import in_chunks


def random_images(count: int, size: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """Return uint8 `[count, size, size, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def batch_of(method: Method, count: int, step: int = 0, steps: int = 10) -> Batch:
    """Return a batch of 4 normal images, of which the first `count` have an inverted square as synthetic anomaly."""
    pixels = torch.cat(list(in_chunks(random_images(4))))
    mask = torch.zeros(count, 1, 64, 64)
    mask[..., 16:32, 16:32] = 1
    synthetic = torch.where(mask > 0, 1 - pixels[:count], pixels[:count])
    frozen = method.frozen_features(pixels)
    return Batch(
        clean=pixels,
        frozen=frozen,
        synthetic=synthetic,
        synthetic_frozen=method.frozen_features(synthetic) if count else [f[:0] for f in frozen],
        origin=pixels[:count],
        origin_frozen=[f[:count] for f in frozen],
        mask=mask,
        step=step,
        steps=steps,
    )
