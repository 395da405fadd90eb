"""Conversion of stored images to the networks' input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.parallel import in_parallel

ResultT = TypeVar("ResultT")


def to_pixels(image: Tensor) -> Tensor:
    """Convert uint8 `[N, H, W, 3]` to float32 `[N, 3, H, W]` in [0, 1]."""
    return image.permute(0, 3, 1, 2).float() / 255


def in_chunks(images: NDArray[np.uint8], size: int = 16) -> Iterator[Tensor]:
    """Convert images chunk by chunk, to bound the memory.

    Args:
        images: uint8 `[N, H, W, 3]`.
        size: Images per chunk.

    Yields:
        float32 `[n, 3, H, W]` in [0, 1], n <= size.
    """
    for start in range(0, len(images), size):
        yield to_pixels(torch.from_numpy(images[start : start + size]))


def map_chunks(function: Callable[[Tensor], ResultT], images: NDArray[np.uint8], size: int = 16) -> Iterator[ResultT]:
    """Apply a function to images chunk by chunk, on several threads, see `in_parallel`.

    Args:
        function: Receives float32 `[n, 3, H, W]` in [0, 1], n <= size.
        images: uint8 `[N, H, W, 3]`.
        size: Images per chunk.
    """
    chunks = (images[start : start + size] for start in range(0, len(images), size))
    return in_parallel(lambda chunk: function(to_pixels(torch.from_numpy(chunk))), chunks)
