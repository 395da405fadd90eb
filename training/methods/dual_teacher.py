"""Two teachers, one attention encoder, and a reconstruction (after Luo & Zhang, Sensors 2023).

An encoder with attention (CBAM) stands on the first teacher's pyramid and learns to say what the second teacher says,
at strides 8 and 16. What it says at stride 32 is squeezed, and a decoder without skips rebuilds from that code alone
the features of both teachers and a small copy of the image. All of it sees painted images too and has to answer as
if they were clean, so it learns to drop what is unusual. Three readings of "how unlike" make the map:

- `st`, student and teacher: the encoder's own levels against the second teacher's;
- `fs`, patch similarity in feature space: the features rebuilt from the code against both teachers', the best of 3x3
  cells;
- `ps`, patch similarity of the images: SSIM by regions of several sizes between image and reconstruction.

Sources: [P] the paper's abstract, which is all of it that could be read: two teachers train the encoder, attention,
reconstruction, patch similarity by regions. Every layer is our own (design notes, section 2), and so are:

- the encoder's input. The notes' encoder sees the image and has to learn seeing from two hundred good parts: after
  250 steps it could not tell good screws from bad ones at all. One teacher's features predict the other's instead (the
  idea of crossmodal feature mapping), a stem that costs nothing to train and nothing in the graph;
- the features rebuilt from the code. The notes compare T(image) with T(reconstruction); predicting T(reconstruction)
  from the code instead saves a teacher's pass and distils the encoder through the code, where no defect gets past;
- the image rebuilt at quarter size and no features at stride 4: regions need no more, a code that coarse cannot tell
  more, and the finest level would cost more than all others together;
- one learning rate for all: the notes' slower encoder in the second stage is left out.

The embedded teachers, EfficientNet-Lite0 and -Lite2, are of one family, because those weights come with a package.
Who has ResNet weights names two families (`--teachers efficientnet_lite0 resnet18`): they fail differently.
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
from training.energy_floor import choose_floor
from training.losses import flat_loss, hard_mined_loss, ramp, structural_difference
from training.maps import Gaussian, LevelFusion, PyramidDistance, resize
from training.methods.base import Batch, Method, parse_options
from training.pixels import in_chunks, to_pixels
from training.teachers import Teacher


@dataclass(frozen=True)
class DualTeacherOptions:
    """The method's own knobs; the defaults are what ships, all our own unless marked."""

    width: int = 48  # channels of encoder and decoder at stride 8; twice and four times that at 16 and 32
    code: int = 192  # channels of the squeezed code at stride 32; [design notes 2.2] has fewer
    windows: tuple[int, ...] = (2, 4, 8)  # of SSIM, pixels of the quarter-size image; 2.5
    feature_noise: float = 0.1  # on the painted features, in standard deviations of each channel; [C] DRD
    hard_share: float = 0.9  # places that hard mining counts as easy, after the ramp; [R] Dinomaly
    hard_ramp_steps: int = 200
    weight_restore: float = 1.0  # of the painted images' distillation, beside the clean ones'
    # L_rec, 2.3; at 0.2 it claims the code for brightness, and the features that are rebuilt from it suffer. The
    # image is learnt as fast: AdamW takes a loss's scale out of weights that no other loss trains.
    weight_image: float = 0.005
    level_weights: tuple[float, ...] = (1.0, 1.0)  # of the map, finest first
    source_weights: tuple[float, float, float] = (0.5, 1.0, 0.05)  # st, fs, ps; 2.5
    floors: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)  # to choose from, see `training.energy_floor`
    sigma: float = 1.0  # of the map's smoothing, in cells of 8 pixels


class AttentionEncoder(nn.Module):
    """The first teacher's pyramid -> levels at strides 8 and 16, gated by CBAM, and the code at stride 32."""

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
        x, levels = features[0], list[Tensor]()
        for down, feature, stage, gate in zip(self.downs, features[1:], self.stages, self.gates, strict=True):
            x = gate(stage(torch.cat([down(x), feature], 1)))
            levels.append(x)
        return levels, self.squeeze(x)


class CodeDecoder(nn.Module):
    """The code alone -> features at strides 8 and 16 and the image at quarter size, float32 `[N, 3, H/4, W/4]`."""

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
        x, levels = self.expand(code), list[Tensor]()
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels[::-1], self.image(x).float() + 0.5


class Regressors(nn.Module):
    """1x1 convolutions from one pyramid to each of some teachers', teacher by teacher. Source: design notes 2.2."""

    def __init__(self, width: int, teachers: Sequence[Teacher]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Conv2d(width * 2**level, channels, 1)
            for teacher in teachers
            for level, channels in enumerate(teacher.channels[1:])
        )
        initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [head(levels[number % len(levels)]) for number, head in enumerate(self.heads)]


class DualTeacherDistillation(Method):
    """See the module's docstring."""

    name: ClassVar[str] = "dual_teacher"
    map_stride: ClassVar[int] = 8
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite0", "efficientnet_lite2")
    recommended: ClassVar[Mapping[str, Any]] = {"iterations": 1000}
    stages: ClassVar[tuple[float, ...]] = (0.2, 1.0)

    def __init__(self, teachers: Sequence[Teacher], options: DualTeacherOptions) -> None:
        super().__init__()
        self.options = options
        self.teachers_ = nn.ModuleList(teachers)
        self.encoder = AttentionEncoder(teachers[0].channels, options.width, options.code)
        self.decoder = CodeDecoder(options.width, options.code)
        self.seen = Regressors(options.width, teachers[1:])
        self.rebuilt = Regressors(options.width, teachers)
        self.entry = PyramidScaler(teachers[0].channels)
        answered = [count for teacher in teachers for count in teacher.channels[1:]]
        self.scaler = PyramidScaler(answered)
        self.first = len(teachers[0].channels) - 1  # where the second teacher's answers begin
        self.distance = PyramidDistance(len(answered) - self.first, options.floors[0])
        self.nearest = PyramidDistance(len(answered), options.floors[0], nearest=True)
        st, fs, ps = options.source_weights
        levels = [weight / sum(options.level_weights) for weight in options.level_weights]
        self.fusion = LevelFusion([*(st * w for w in levels), *(fs / 2 * w for w in levels * 2), ps])
        self.smooth = Gaussian(options.sigma)

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        return cls(teachers, parse_options(DualTeacherOptions, options))

    @property
    def teachers(self) -> list[str]:
        return [str(teacher.name) for teacher in self.teachers_]

    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        """The first teacher's three levels, the second's two coarser ones."""
        first, second = (teacher(pixels) for teacher in self.teachers_)
        return [*first, *second[1:]]

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        self.entry.measure(frozen[: self.first + 1])
        answered = frozen[1:]
        self.scaler.measure(answered)
        self.distance.measure(answered[self.first :])
        self.nearest.measure(answered)

    def students(self, standard: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """All answers to the first teacher's standardised features, of which alone they are made.

        Returns:
            The second teacher's features as the encoder's levels tell them, both teachers' as the code tells them,
            and the image at quarter size.
        """
        levels, code = self.encoder([f.contiguous(memory_format=torch.channels_last) for f in standard])
        decoded, image = self.decoder(code)
        seen, rebuilt = self.seen(levels), self.rebuilt(decoded)
        # The scaler goes through all answers in order; the encoder gives those of the second teacher only.
        seen = self.scaler.undo([*rebuilt[: self.first], *seen])[self.first :]
        return seen, self.scaler.undo(rebuilt), image

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        o = self.options
        count, entries = len(batch.clean), self.first + 1
        clean, painted = (self.entry(frozen[:entries]) for frozen in (batch.frozen, batch.pseudo_frozen))
        noisy = [f + o.feature_noise * torch.randn(f.shape) for f in painted]
        seen, rebuilt, image = self.students([torch.cat(pair) for pair in zip(clean, noisy, strict=True)])
        answers = [*seen, *rebuilt]
        mined = partial(hard_mined_loss, easy_fraction=ramp(batch.step, o.hard_ramp_steps, o.hard_share))
        targets = [*batch.frozen[entries:], *batch.frozen[1:]]
        distil = [mined(target, answer[:count]) for target, answer in zip(targets, answers, strict=True)]
        losses = {"distil": torch.stack(distil).mean()}
        loss = losses["distil"]
        if len(batch.pseudo):
            targets = [*batch.origin_frozen[entries:], *batch.origin_frozen[1:]]
            restore = [flat_loss(target, answer[count:]) for target, answer in zip(targets, answers, strict=True)]
            losses["restore"] = torch.stack(restore).mean()
            loss = loss + o.weight_restore * losses["restore"]
        # The second stage: first the teachers shape encoder and code, then the image has to come out of it as well.
        if batch.progress >= self.stages[0]:
            losses["image"] = self._image_loss(torch.cat([batch.clean, batch.origin]), image)
            loss = loss + o.weight_image * losses["image"]
        return {"loss": loss, **losses}

    def _image_loss(self, pixels: Tensor, image: Tensor) -> Tensor:
        """L_rec: absolute difference and 1 - SSIM by regions; the design notes' perceptual term is `rebuilt`."""
        target = F.avg_pool2d(pixels, 4)
        unlike = [structural_difference(target, image, window).mean() for window in self.options.windows]
        return (target - image).abs().mean() + torch.stack(unlike).mean()

    @torch.no_grad()
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        def measure() -> None:
            chunks = [self.distances(pixels) for pixels in in_chunks(reference)]
            self.fusion.calibrate([torch.cat(source) for source in zip(*chunks, strict=True)])

        choose_floor([self.distance, self.nearest], measure, self.fused, reference, self.options.floors)

    def distances(self, pixels: Tensor) -> list[Tensor]:
        """Maps of float32 `[N, 3, H, W]` in [0, 1]: `st`, `fs` (of both teachers), each finest level first, `ps`.

        Returns:
            Seven of float32 `[N, 1, h, w]`.
        """
        features = self.frozen_features(pixels)
        seen, rebuilt, image = self.students(self.entry(features[: self.first + 1]))
        small = F.avg_pool2d(pixels, 4)
        size = (features[1].shape[-2], features[1].shape[-1])
        regions = [resize(structural_difference(small, image, window), size) for window in self.options.windows]
        answered = features[1:]
        st, fs = self.distance(answered[self.first :], seen), self.nearest(answered, rebuilt)
        return [*st, *fs, torch.stack(regions).mean(0)]

    def fused(self, pixels: Tensor) -> Tensor:
        """The anomaly map, float32 `[N, 1, H / 8, W / 8]`."""
        smoothed: Tensor = self.smooth(self.fusion(self.distances(pixels)))
        return smoothed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.fused(to_pixels(image))[:, 0], None

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Moved by a cell, so that other neighbours are nearest.
        return np.concatenate([images, 255 - images, np.roll(images, 8, 2)])
