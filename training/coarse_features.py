"""Features of small copies of good images, which the image check and the comparison of capture groups share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.bundle.manifest import InputGeometry
from training.dataset import UInt8Images, load_prepared
from training.memory_bank import MemoryBank
from training.pixels import map_chunks
from training.teachers import Teacher

SIDE = 256  # pixels; the side of the copies
LEVELS = slice(1, 3)  # of the teacher's pyramid: strides 8 and 16
_LOADED = 64  # prepared images that are in memory at once
MAX_KEPT = 2000  # images whose descriptors are kept, about 160 KB each


class CoarseFeatures:
    """Descriptors of images (see `MemoryBank.descriptors`); those of the first `MAX_KEPT` are computed once.

    Args:
        teacher: A frozen network.
        side: Side of the copies, pixels; a multiple of 16.
    """

    def __init__(self, teacher: Teacher, side: int = SIDE) -> None:
        self._teacher = teacher
        self._geometry = InputGeometry(height=side, width=side)
        self._known: dict[Path, Tensor] = {}

    def of(self, paths: Sequence[Path], progress: Callable[[int], None] | None = None) -> Tensor:
        """Return the descriptors of images.

        Args:
            paths: Image files, at least one.
            progress: Called with the number of images done so far.

        Returns:
            float32 `[N, C, side / 16, side / 16]`.

        Raises:
            UnreadableImage: An image cannot be read; the message names the first one.
        """
        found: dict[Path, Tensor] = {}
        missing = [path for path in dict.fromkeys(paths) if path not in self._known]
        for start in range(0, len(missing), _LOADED):
            part = missing[start : start + _LOADED]
            descriptors = coarse_descriptors(self._teacher, load_prepared(part, self._geometry))
            found.update(zip(part, descriptors, strict=True))
            if progress is not None:
                progress(len(paths) - len(missing) + start + len(part))
        result = torch.stack([found[path] if path in found else self._known[path] for path in paths])
        self._known.update((path, found[path]) for path in list(found)[: MAX_KEPT - len(self._known)])
        return result


@torch.no_grad()
def coarse_descriptors(teacher: Teacher, images: UInt8Images) -> Tensor:
    """Compute the descriptors of prepared images.

    Args:
        teacher: A frozen network.
        images: uint8 `[N, side, side, 3]`, RGB.

    Returns:
        float32 `[N, C, side / 16, side / 16]`.
    """
    return torch.cat(list(map_chunks(lambda pixels: MemoryBank.descriptors(teacher(pixels)[LEVELS]), images)))
