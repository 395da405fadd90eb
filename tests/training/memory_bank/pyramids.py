"""Feature pyramids of two levels, as a teacher's features at strides 8 and 16."""

import torch
from torch import Tensor

CHANNELS = (6, 10)


def pyramid(count: int, seed: int, side: int = 4) -> list[Tensor]:
    """Return random features of `count` images with `side * side` coarse cells each."""
    generator = torch.Generator().manual_seed(seed)
    fine, coarse = CHANNELS
    return [
        torch.randn(count, fine, 2 * side, 2 * side, generator=generator),
        torch.randn(count, coarse, side, side, generator=generator),
    ]


def repeated(scene: list[Tensor], count: int, noise: float, seed: int) -> list[Tensor]:
    """Return `count` noisy copies of a scene of one image."""
    generator = torch.Generator().manual_seed(seed)
    return [
        level.repeat(count, 1, 1, 1) + noise * torch.randn((count, *level.shape[1:]), generator=generator)
        for level in scene
    ]
