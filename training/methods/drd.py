"""DRD: dual reverse distillation (2025), with student widths scaled to the teacher.

A frozen teacher's pyramid is squeezed through a bottleneck (MFCF and OCE) and rebuilt by a decoder from the top down,
so that only what is usual survives. The same student sees the good image (normal branch) and the image with a painted
defect (pseudo branch), and rebuilds the good image's features from both. Where it fails on a test image, the
image is unusual.

Sources: [C] the authors' code (GE-123-cpu/Dual-Reverse-Distillation), section numbers of the design notes in
brackets; "our own" is marked. What was tried and measured is in docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.blocks import BasicBlock, ConvBNReLU, UpBlock, initialise
from training.losses import channel_loss, flat_loss, hard_mined_loss, point_loss, ramp
from training.maps import Gaussian, LevelFusion, cosine_distance, resize
from training.methods.base import Batch, Method, in_chunks, to_pixels
from training.teachers import Teacher


@dataclass(frozen=True)
class DrdOptions:
    """DRD's own knobs; the defaults are what ships."""

    width: float = 3.0  # student's finest width = width * sqrt(coarsest teacher channels), to a multiple of 8; our own
    dropout: float = 0.0  # on the bottleneck code; [R] Dinomaly's noisy bottleneck
    feature_noise: float = 0.1  # on the pseudo branch's input, in standard deviations of each channel; [C] 5.3
    hard_share: float = 0.9  # places that hard mining counts as easy, after the ramp; [R] Dinomaly, 5.7a
    hard_ramp_steps: int = 300
    weight_hm: float = 1.0
    weight_point: float = 0.0
    weight_channel: float = 0.0
    weight_restore: float = 1.0  # L_Rec; [C] 1
    weight_segment: float = 0.1  # L_Seg; [C] 0.1
    seg_floor: float = 0.05
    sigma: float = 1.0  # of the map's smoothing, in cells of 4 pixels: 4 pixels; [C] 5.6


class ReverseStudent(nn.Module):
    """MFCF fusion, one-class embedding and decoder (5.2); `[N, C_k, H_k, W_k]` per level -> the same shapes."""

    def __init__(self, channels: Sequence[int], width: float, dropout: float) -> None:
        super().__init__()
        c1, c2, c3 = channels
        w1 = 8 * max(1, round(width * math.sqrt(c3) / 8))
        w2, w3, code = 2 * w1, 4 * w1, 8 * w1
        # MFCF: cascade fusion, finest to coarsest.
        self.fuse1 = ConvBNReLU(c1, w2, stride=2)
        self.fuse2 = ConvBNReLU(w2 + c2, w3, stride=2)
        self.fuse3 = ConvBNReLU(w3 + c3, w3)
        # OCE; the authors use three bottleneck blocks of a Wide ResNet.
        self.embed = nn.Sequential(BasicBlock(w3, code, stride=2), BasicBlock(code, code), nn.Dropout2d(dropout))
        self.decode3 = nn.Sequential(UpBlock(code, w3), BasicBlock(w3, w3))
        self.decode2 = nn.Sequential(UpBlock(w3, w2), BasicBlock(w2, w2))
        self.decode1 = nn.Sequential(UpBlock(w2, w1), BasicBlock(w1, w1))
        self.heads = nn.ModuleList([nn.Conv2d(w, c, 1) for w, c in zip((w1, w2, w3), channels, strict=True)])
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        f1, f2, f3 = features
        x = self.fuse1(f1)
        x = self.fuse2(torch.cat([x, f2], 1))
        x = self.embed(self.fuse3(torch.cat([x, f3], 1)))
        d3 = self.decode3(x)
        d2 = self.decode2(d3)
        d1 = self.decode1(d2)
        return [head(d) for head, d in zip(self.heads, (d1, d2, d3), strict=True)]


class ChannelScaler(nn.Module):
    """Standardises a level's channels and back, with constants of the good training images. Our own.

    The student works on comparable channels, while the distance is still taken on the teacher's raw features, whose
    large channels carry the meaning: standardising those costs accuracy.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def measure(self, features: Tensor) -> None:
        """Takes the constants from `[N, C, H, W]`."""
        std, mean = torch.std_mean(features.float(), (0, 2, 3), keepdim=True)
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-6))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std

    def undo(self, standardised: Tensor) -> Tensor:
        return standardised * self.std + self.mean


class DualReverseDistillation(Method):
    """See the module's docstring."""

    name: ClassVar[str] = "drd"
    map_stride: ClassVar[int] = 4

    def __init__(self, teacher: Teacher, options: DrdOptions) -> None:
        super().__init__()
        self.options = options
        self.teacher = teacher
        self.scalers = nn.ModuleList([ChannelScaler(c) for c in teacher.channels])
        self.student = ReverseStudent(teacher.channels, options.width, options.dropout)
        self.fusion = LevelFusion(len(teacher.channels))
        self.smooth = Gaussian(options.sigma)

    @classmethod
    def build(cls, teacher: Teacher, options: Mapping[str, Any]) -> Self:
        return cls(teacher, DrdOptions(**options))

    @property
    def teachers(self) -> list[str]:
        return [self.teacher.name]

    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.teacher(pixels)
        return features

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        for scaler, features in zip(self.scalers, frozen, strict=True):
            scaler.measure(features)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        o = self.options
        clean = batch.frozen
        count, pseudo_count = len(clean[0]), len(batch.pseudo)
        pseudo = self.teacher(batch.pseudo) if pseudo_count else [f[:0] for f in clean]
        inputs = []
        for scaler, f, fa in zip(self.scalers, clean, pseudo, strict=True):
            noisy = scaler(fa.float())
            noisy = noisy + o.feature_noise * torch.randn_like(noisy)
            inputs.append(torch.cat([scaler(f.float()), noisy]).contiguous(memory_format=torch.channels_last))
        rebuilt = [scaler.undo(g.float()) for scaler, g in zip(self.scalers, self.student(inputs), strict=True)]
        normal, restored = [g[:count] for g in rebuilt], [g[count:] for g in rebuilt]

        easy = ramp(batch.step, o.hard_ramp_steps, o.hard_share)
        losses = {"distil": _total(hard_mined_loss(f, g, easy_fraction=easy) for f, g in zip(clean, normal))}
        loss = o.weight_hm * losses["distil"]
        if o.weight_point:
            loss = loss + o.weight_point * _total(point_loss(f, g) for f, g in zip(clean, normal))
        if o.weight_channel:
            loss = loss + o.weight_channel * _total(channel_loss(f, g) for f, g in zip(clean, normal))
        if pseudo_count:
            targets = [f[:pseudo_count] for f in clean]
            losses["restore"] = _total(flat_loss(f, g) for f, g in zip(targets, restored))
            losses["segment"] = self._segment_loss(targets, pseudo, restored, batch.mask)
            loss = loss + o.weight_restore * losses["restore"] + o.weight_segment * losses["segment"]
        return {"loss": loss, **losses}

    def _segment_loss(self, clean: list[Tensor], pseudo: list[Tensor], restored: list[Tensor], mask: Tensor) -> Tensor:
        size = (clean[0].shape[-2], clean[0].shape[-1])
        mean_map = torch.stack([resize(cosine_distance(a, g), size) for a, g in zip(pseudo, restored)]).mean(0)
        with torch.no_grad():
            shift = torch.stack([resize(cosine_distance(a, f), size) for a, f in zip(pseudo, clean)]).mean(0)
            target = nn.functional.adaptive_max_pool2d(mask, size) * (shift > self.options.seg_floor)
        return (mean_map - target).abs().mean()

    @torch.no_grad()
    def calibrate(self, held_out: NDArray[np.uint8]) -> None:
        chunks = [self.distances(pixels) for pixels in in_chunks(held_out)]
        self.fusion.calibrate([torch.cat(level) for level in zip(*chunks, strict=True)])

    def distances(self, pixels: Tensor) -> list[Tensor]:
        """Distance maps of float32 `[N, 3, H, W]` in [0, 1], per level float32 `[N, 1, H_k, W_k]`."""
        features = self.teacher(pixels)
        rebuilt = self.student([scaler(f) for scaler, f in zip(self.scalers, features, strict=True)])
        return [
            cosine_distance(f, scaler.undo(g)) for scaler, f, g in zip(self.scalers, features, rebuilt, strict=True)
        ]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        fused = self.fusion(self.distances(to_pixels(image)))
        return self.smooth(fused)[:, 0], None

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.concatenate([images, 255 - images])


def _total(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()
