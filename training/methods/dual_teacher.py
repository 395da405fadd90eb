"""Dual teacher: distillation from two teachers and reconstruction (after Luo & Zhang, Sensors 2023).

An encoder with attention (CBAM) receives the first teacher's pyramid and learns to predict the second teacher's
features at strides 8 and 16. Its output is compressed to a code at stride 32, from which a decoder without skip
connections reconstructs the features of both teachers and a quarter-size copy of the image. The student is also
trained on synthetic anomalies with normal targets. Three distances make up the anomaly map:

- `st`, student-teacher: the encoder's predictions and the second teacher's features;
- `fs`, patch similarity of features: the reconstructed features and those of both teachers, nearest of 3x3 cells;
- `ps`, patch similarity of images: 1 - SSIM of the image and its reconstruction over windows of several sizes.

Source: only the abstract was available (two teachers train the encoder, attention, reconstruction, patch similarity by
regions); every layer is our own. See docs/methods.md, section *Dual teacher*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.blocks import (
    BasicBlock,
    BottleneckBlock,
    ChannelSpatialAttention,
    ConvBNReLU,
    PyramidScaler,
    UpBlock,
    initialise,
)
from training.energy_floor import HasEnergyFloor
from training.losses import flat_loss, hard_mined_loss, ramp, structural_difference
from training.maps import PyramidDistance, resize
from training.methods.base import Batch, parse_options
from training.methods.two_scales import BankOptions, TwoScaleMethod
from training.teachers import Teacher

SOURCES = ("st_8", "st_16", "fs1_8", "fs1_16", "fs2_8", "fs2_16", "ps")
"""Names of the maps of the trained part, as `DualTeacherDistillation.own_maps` returns them."""


@dataclass(frozen=True)
class DualTeacherOptions(BankOptions):
    """Options of the dual teacher method, with their defaults; all are our own unless a source is given."""

    width: int = 48
    """Channels of encoder and decoder at stride 8; twice and four times as many at strides 16 and 32."""
    code: int = 192
    """Channels of the compressed code at stride 32."""
    windows: tuple[int, ...] = (2, 4, 8)
    """Sides of the SSIM windows, in pixels of the quarter-size image."""
    feature_noise: float = 0.1
    """Noise on the features of synthetic images, in standard deviations of each channel; DRD."""
    easy_fraction: float = 0.9
    """Fraction of cells, in [0, 1), that hard mining treats as easy after the ramp; Dinomaly."""
    hard_ramp_steps: int = 200
    """Steps over which the easy fraction rises from 0."""
    weight_restore: float = 1.0
    """Weight of the loss on synthetic images relative to that on normal images."""
    # At 0.2 the code mostly encodes brightness and the reconstructed features become worse (docs/benchmarks.md). The
    # image decoder learns as fast with a small weight: AdamW is invariant to the scale of a loss that alone trains
    # its weights.
    weight_image: float = 0.005
    """Weight of the image reconstruction loss."""
    level_weights: tuple[float, ...] = (1.0, 1.0)
    """Ensemble weights of the two levels within st and fs, finest first."""
    ensemble_weights: tuple[float, float, float] = (0.5, 1.0, 0.05)
    """Weights of st, fs and ps."""
    energy_floors: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)
    """Energy floors to select from, ascending, see `training.energy_floor`."""
    sigma: float = 1.0
    """Standard deviation of the map's smoothing, in cells of 8 pixels."""


class AttentionEncoder(nn.Module):
    """Encoder of the first teacher's pyramid, gated by CBAM at strides 8 and 16, with a code at stride 32.

    Source: the abstract names attention and an encoder trained by distillation; the layers are our own.

    Args:
        channels: Channels of the first teacher's three levels, finest first.
        width: See `DualTeacherOptions.width`.
        code: See `DualTeacherOptions.code`.
    """

    def __init__(self, channels: Sequence[int], width: int, code: int) -> None:
        super().__init__()
        (c1, c2, c3), (w2, w3, w4) = channels, (width * 2**level for level in range(3))
        self.stages = nn.ModuleList([BasicBlock(w2 + c2, w2), BasicBlock(w3 + c3, w3)])
        self.downs = nn.ModuleList([ConvBNReLU(c1, w2, stride=2), ConvBNReLU(w2, w3, stride=2)])
        self.gates = nn.ModuleList(ChannelSpatialAttention(w) for w in (w2, w3))
        self.squeeze = nn.Sequential(
            BasicBlock(w3, w4, stride=2), BottleneckBlock(w4), BottleneckBlock(w4), ConvBNReLU(w4, code, kernel=1)
        )
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Encode standardised features.

        Args:
            features: float `[N, C_k, H_k, W_k]` for three levels at strides 4, 8 and 16.

        Returns:
            The encoder's levels at strides 8 and 16, float `[N, width * 2^k, H_k, W_k]`, and the code, float
            `[N, code, H / 32, W / 32]`.
        """
        x, levels = features[0], list[Tensor]()
        for down, feature, stage, gate in zip(self.downs, features[1:], self.stages, self.gates, strict=True):
            x = gate(stage(torch.cat([down(x), feature], 1)))
            levels.append(x)
        return levels, self.squeeze(x)


class CodeDecoder(nn.Module):
    """Decoder of the code, without skip connections. Source: our own.

    Args:
        width: See `DualTeacherOptions.width`.
        code: See `DualTeacherOptions.code`.
    """

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        w2, w3, w4 = (width * 2**level for level in range(3))
        self.expand = nn.Sequential(ConvBNReLU(code, w4, kernel=1), BottleneckBlock(w4))
        self.stages = nn.ModuleList(
            nn.Sequential(UpBlock(cin, cout), BasicBlock(cout, cout)) for cin, cout in ((w4, w3), (w3, w2))
        )
        self.image = nn.Sequential(UpBlock(w2, w2 // 4), nn.Conv2d(w2 // 4, 3, 3, padding=1))
        initialise(self)

    def forward(self, code: Tensor) -> tuple[list[Tensor], Tensor]:
        """Decode a code.

        Args:
            code: float `[N, code, H / 32, W / 32]`.

        Returns:
            Features at strides 8 and 16, finest first, and the image at quarter size, float32 `[N, 3, H / 4, W / 4]`,
            about in [0, 1] but not clamped.
        """
        x, levels = self.expand(code), list[Tensor]()
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels[::-1], self.image(x).float() + 0.5


class Regressors(nn.Module):
    """1x1 convolutions from one pyramid to the levels at strides 8 and 16 of each teacher. Source: our own.

    Args:
        width: Channels of the input's finer level; the coarser one has twice as many.
        teachers: The teachers whose features are predicted.
    """

    def __init__(self, width: int, teachers: Sequence[Teacher]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Conv2d(width * 2**level, channels, 1)
            for teacher in teachers
            for level, channels in enumerate(teacher.channels[1:])
        )
        initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Predict the standardised features, teacher by teacher, each finest level first."""
        return [head(levels[number % len(levels)]) for number, head in enumerate(self.heads)]


class DualTeacherDistillation(TwoScaleMethod):
    """The dual teacher method, see the module's docstring. Source: the idea is Luo & Zhang's, every layer our own.

    Args:
        teachers: The two frozen teachers.
        options: The options.
    """

    name: ClassVar[str] = "dual_teacher"
    map_stride: ClassVar[int] = 8
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite0", "efficientnet_lite2")
    recommended: ClassVar[Mapping[str, Any]] = {"iterations": 1000, "input_size": 384}
    stages: ClassVar[tuple[float, ...]] = (0.2, 1.0)

    def __init__(self, teachers: Sequence[Teacher], options: DualTeacherOptions) -> None:
        st, fs, ps = options.ensemble_weights
        levels = [weight / sum(options.level_weights) for weight in options.level_weights]
        own = dict(zip(SOURCES, [*(st * w for w in levels), *(fs / 2 * w for w in levels * 2), ps], strict=True))
        channels = teachers[1].channels[1:] if options.banks else None
        super().__init__(options, channels, options.with_banks(own), options.energy_floors, options.sigma)
        self.options = options
        self.teachers_ = nn.ModuleList(teachers)
        self.encoder = AttentionEncoder(teachers[0].channels, options.width, options.code)
        self.decoder = CodeDecoder(options.width, options.code)
        self.prediction = Regressors(options.width, teachers[1:])
        self.reconstruction = Regressors(options.width, teachers)
        self.input_scaler = PyramidScaler(teachers[0].channels)
        # Targets are the levels at strides 8 and 16: first those of the first teacher, then those of the second.
        target_channels = [count for teacher in teachers for count in teacher.channels[1:]]
        self.target_scaler = PyramidScaler(target_channels)
        self.second_start = len(teachers[0].channels) - 1  # index of the second teacher's first target
        self.distance = PyramidDistance(len(target_channels) - self.second_start, options.energy_floors[0])
        self.nearest = PyramidDistance(len(target_channels), options.energy_floors[0], nearest=True)

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        """Build an untrained method from two teachers."""
        return cls(teachers, parse_options(DualTeacherOptions, options))

    @property
    def teachers(self) -> list[str]:
        """Return both teachers' registry names."""
        return [str(teacher.name) for teacher in self.teachers_]

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Compute the first teacher's three levels and the second teacher's levels at strides 8 and 16."""
        first, second = (teacher(pixels) for teacher in self.teachers_)
        return [*first, *second[1:]]

    def compared(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the second teacher's levels."""
        return features[self.second_start + 1 :]

    def full_features(self, pixels: Tensor) -> Sequence[Tensor]:
        """Compute the second teacher's levels at strides 8 and 16 for images at full resolution."""
        levels: list[Tensor] = self.teachers_[1](pixels)
        return levels[1:]

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        """Measure the channels' statistics and the levels' energies of both teachers."""
        self.input_scaler.measure(frozen[: self.second_start + 1])
        targets = frozen[1:]
        self.target_scaler.measure(targets)
        self.distance.measure(targets[self.second_start :])
        self.nearest.measure(targets)

    def students(self, standard: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Compute all outputs of the student.

        Args:
            standard: The first teacher's standardised features, float `[N, C_k, H_k, W_k]` for three levels.

        Returns:
            The second teacher's features as predicted from the encoder's levels (2 tensors), both teachers' features
            as reconstructed from the code (4 tensors), and the reconstructed image, float32 `[N, 3, H / 4, W / 4]`.
        """
        levels, code = self.encoder([f.contiguous(memory_format=torch.channels_last) for f in standard])
        decoded, image = self.decoder(code)
        predicted, reconstructed = self.prediction(levels), self.reconstruction(decoded)
        # The scaler processes all targets in order; predictions exist for the second teacher only.
        predicted = self.target_scaler.undo([*reconstructed[: self.second_start], *predicted])[self.second_start :]
        return predicted, self.target_scaler.undo(reconstructed), image

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the distillation, restoration and, from the second stage on, image losses.

        Source: the abstract names distillation from two teachers and image reconstruction; the losses are our own.
        """
        o = self.options
        count, inputs = len(batch.clean), self.second_start + 1
        clean, synthetic = (self.input_scaler(frozen[:inputs]) for frozen in (batch.frozen, batch.synthetic_frozen))
        noisy = [f + o.feature_noise * torch.randn(f.shape) for f in synthetic]
        predicted, reconstructed, image = self.students([torch.cat(pair) for pair in zip(clean, noisy, strict=True)])
        outputs = [*predicted, *reconstructed]
        mined = partial(hard_mined_loss, easy_fraction=ramp(batch.step, o.hard_ramp_steps, o.easy_fraction))
        targets = [*batch.frozen[inputs:], *batch.frozen[1:]]
        distil = [mined(target, output[:count]) for target, output in zip(targets, outputs, strict=True)]
        losses = {"distil": torch.stack(distil).mean()}
        loss = losses["distil"]
        if len(batch.synthetic):
            targets = [*batch.origin_frozen[inputs:], *batch.origin_frozen[1:]]
            restore = [flat_loss(target, output[count:]) for target, output in zip(targets, outputs, strict=True)]
            losses["restore"] = torch.stack(restore).mean()
            loss = loss + o.weight_restore * losses["restore"]
        # The first stage trains encoder and code on features alone; the image is added in the second stage.
        if batch.progress >= self.stages[0]:
            losses["image"] = self._image_loss(torch.cat([batch.clean, batch.origin]), image)
            loss = loss + o.weight_image * losses["image"]
        return {"loss": loss, **losses}

    def _image_loss(self, pixels: Tensor, image: Tensor) -> Tensor:
        """Compute the mean absolute difference plus 1 - SSIM over windows, on the quarter-size image."""
        target = F.avg_pool2d(self.reduced(pixels), 4)
        dissimilarity = [structural_difference(target, image, window).mean() for window in self.options.windows]
        return (target - image).abs().mean() + torch.stack(dissimilarity).mean()

    @property
    def floored(self) -> Sequence[HasEnergyFloor]:
        """Return the distances of the predicted and of the reconstructed features."""
        return [self.distance, self.nearest]

    def own_maps(self, pixels: Tensor, frozen: Sequence[Tensor]) -> list[Tensor]:
        """Compute the seven maps of `SOURCES`, float32 `[N, 1, h_k, w_k]` in [0, 2]."""
        predicted, reconstructed, image = self.students(self.input_scaler(frozen[: self.second_start + 1]))
        small = F.avg_pool2d(self.reduced(pixels), 4)
        size = (frozen[1].shape[-2], frozen[1].shape[-1])
        regions = [resize(structural_difference(small, image, window), size) for window in self.options.windows]
        targets = frozen[1:]
        st, fs = self.distance(targets[self.second_start :], predicted), self.nearest(targets, reconstructed)
        return [*st, *fs, torch.stack(regions).mean(0)]

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the images, their inverses and copies shifted by one cell, whose nearest neighbours differ."""
        return np.concatenate([images, 255 - images, np.roll(images, 8, 2)])
