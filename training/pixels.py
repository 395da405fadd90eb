"""From stored pictures to what networks compute with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_pixels(image: Tensor) -> Tensor:
    """uint8 `[N, H, W, 3]` -> float32 `[N, 3, H, W]` in [0, 1]."""
    return image.permute(0, 3, 1, 2).float() / 255


def in_chunks(images: NDArray[np.uint8], size: int = 16) -> list[Tensor]:
    """Splits uint8 `[N, H, W, 3]` into float32 `[n, 3, H, W]` pieces, n <= size, to bound the memory."""
    return [to_pixels(torch.from_numpy(images[i : i + size])) for i in range(0, len(images), size)]
