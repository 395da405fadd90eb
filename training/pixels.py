"""From stored images to what networks compute with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_pixels(image: Tensor) -> Tensor:
    """uint8 `[N, H, W, 3]` -> float32 `[N, 3, H, W]` in [0, 1]."""
    return image.permute(0, 3, 1, 2).float() / 255


def in_chunks(images: NDArray[np.uint8], size: int = 16) -> Iterator[Tensor]:
    """Gives uint8 `[N, H, W, 3]` as float32 `[n, 3, H, W]` pieces, n <= size, one at a time to bound the memory."""
    for start in range(0, len(images), size):
        yield to_pixels(torch.from_numpy(images[start : start + size]))
