"""The smallest method that learns, for tests of what happens around a training.

Its network has one convolution. Most of the time of a short training is the export of the real network, which has
several hundred nodes; tests/training/methods, tests/training/test_pipeline.py and tests/test_end_to_end.py train those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.methods.base import Batch, Method
from training.teachers import Teacher

CHANNELS = 64


class SmallTrainedMethod(Method):
    """Learns the mean of fixed random features; the map is the distance from it.

    Args:
        teachers: Names of the teachers, whose features are not used.
        learns: Whether the mean is learnt in training steps. Otherwise it is measured.
    """

    name = "small"
    map_stride = 4
    recommended: ClassVar[Mapping[str, Any]] = {"pseudo_pool": 4}
    quick: ClassVar[Mapping[str, Any] | None] = {"learns": False}

    def __init__(self, teachers: Sequence[str], *, learns: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("kernel", torch.randn(CHANNELS, 3, 4, 4, generator=generator))
        self.register_buffer("spread", torch.ones(()))
        self.kernel: Tensor
        self.spread: Tensor
        self.mean = nn.Parameter(0.01 * torch.randn(1, CHANNELS, 1, 1), requires_grad=learns)
        self.names = list(teachers)

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        return cls([teacher.name for teacher in teachers], learns=options.get("learns", True))

    @property
    def teachers(self) -> list[str]:
        return self.names

    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        return [F.conv2d(pixels - 0.5, self.kernel, stride=self.map_stride)]

    def consolidate(self, images: NDArray[np.uint8], frozen: Sequence[Tensor]) -> None:
        del images
        if not self.learns:
            self.mean.data = frozen[0].mean((0, 2, 3), keepdim=True)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        loss = (batch.frozen[0] - self.mean).square().mean()
        return {"loss": loss, "distil": loss}

    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        with torch.no_grad():
            self.spread = self(torch.from_numpy(reference))[0].mean()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.frozen_features(image.permute(0, 3, 1, 2).float() / 255)[0]
        return (features - self.mean).square().mean(1) / self.spread, None

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return images[:0]
