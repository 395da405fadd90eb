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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.blocks import BasicBlock, BottleneckBlock, ConvBNReLU, PyramidScaler, UpBlock, initialise
from training.energy_floor import choose_floor
from training.losses import channel_loss, flat_loss, hard_mined_loss, over_levels, point_loss, ramp
from training.maps import Gaussian, LevelFusion, PyramidDistance, cosine_distance, resize
from training.methods.base import Batch, Method, parse_options
from training.pixels import in_chunks, to_pixels
from training.teachers import IMAGENET_MEAN, IMAGENET_STD, Teacher


@dataclass(frozen=True)
class DrdOptions:
    """DRD's own knobs; the defaults are what ships."""

    width: float = 3.0  # student's finest width = width * sqrt(coarsest teacher channels), to a multiple of 8; our own
    dropout: float = 0.0  # on the bottleneck code; [R] Dinomaly's noisy bottleneck
    feature_noise: float = 0.1  # on the pseudo branch's input, in standard deviations of each channel; [C] 5.3
    hard_share: float = 0.9  # places that hard mining counts as easy, after the ramp; [R] Dinomaly, 5.7a
    hard_ramp_steps: int = 200
    weight_hm: float = 1.0
    weight_point: float = 0.0
    weight_channel: float = 0.0
    weight_restore: float = 1.0  # L_Rec; [C] 1
    individual: str = "flat"  # what "individual images" means in L_Rec: "flat" as meant, "channel" as coded; 5.3
    weight_segment: float = 0.1  # L_Seg; [C] 0.1
    seg_floor: float = 0.05
    level_weights: tuple[float, ...] = (0.5, 1.0, 1.0)  # of the map, finest first; our own, docs/benchmarks.md
    floors: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)  # of the map's distances, see `training.energy_floor`; our own
    strict: bool = False  # the authors' code as published, its slips included (`published`); 5.3, 5.6
    sigma: float = 1.0  # of the map's smoothing, in cells of 4 pixels: 4 pixels; [C] 5.6


def published(**changes: Any) -> DrdOptions:
    """The options of the authors' code: plain cosines, both losses on the levels, no calibration, refined score.

    Training also wants `FitConfig(painting="published", pseudo_share=1.0, batch_size=4, lr=5e-3)`; what cannot be
    repeated is their choice of the checkpoint by test AUROC. Source: [C] sections 5.2 to 5.6.
    """
    settings: dict[str, Any] = {
        "strict": True,
        "individual": "channel",
        "hard_share": 0.0,
        "weight_hm": 0.0,
        "weight_point": 1.0,
        "weight_channel": 1.0,
        "level_weights": (1.0, 1.0, 1.0),
        "floors": (0.0,),
    }
    return DrdOptions(**(settings | changes))


class ReverseStudent(nn.Module):
    """MFCF fusion, one-class embedding and decoder (5.2); `[N, C_k, H_k, W_k]` per level -> the same shapes."""

    def __init__(self, channels: Sequence[int], width: float, dropout: float) -> None:
        super().__init__()
        c1, c2, c3 = channels
        w1 = 8 * max(1, round(width * math.sqrt(c3) / 8))
        w2, w3, code = 2 * w1, 4 * w1, 6 * w1
        # MFCF: cascade fusion, finest to coarsest.
        self.fuse1 = ConvBNReLU(c1, w2, stride=2)
        self.fuse2 = ConvBNReLU(w2 + c2, w3, stride=2)
        self.fuse3 = ConvBNReLU(w3 + c3, w3)
        # OCE; the authors use three bottleneck blocks of a Wide ResNet.
        self.embed = nn.Sequential(
            BasicBlock(w3, code, stride=2), BottleneckBlock(code), BottleneckBlock(code), nn.Dropout2d(dropout)
        )
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


class DualReverseDistillation(Method):
    """See the module's docstring."""

    name: ClassVar[str] = "drd"
    map_stride: ClassVar[int] = 4
    recommended: ClassVar[Mapping[str, Any]] = {"iterations": 600}

    def __init__(self, teacher: Teacher, options: DrdOptions) -> None:
        super().__init__()
        self.options = options
        self.teacher = teacher
        self.scaler = PyramidScaler(teacher.channels)
        self.student = ReverseStudent(teacher.channels, options.width, options.dropout)
        self.distance = PyramidDistance(len(teacher.channels), options.floors[0])
        self.fusion = LevelFusion(options.level_weights)
        self.smooth = Gaussian(options.sigma)

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        (teacher,) = teachers
        given = parse_options(DrdOptions, options)
        if given.strict:  # asks for everything that was published; what is named beside it wins
            given = published(**{name: getattr(given, name) for name in options})
        return cls(teacher, given)

    @property
    def teachers(self) -> list[str]:
        return [self.teacher.name]

    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.teacher(pixels)
        return features

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        self.scaler.measure(frozen)
        self.distance.measure(frozen)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        o = self.options
        clean = batch.frozen
        count, pseudo_count = len(clean[0]), len(batch.pseudo)
        pseudo = batch.pseudo_frozen
        inputs, painted = [], []
        for f, fa in zip(self.scaler(clean), self.scaler(pseudo), strict=True):
            # randn of a contiguous shape is five times faster than randn_like of a channels-last tensor.
            noisy = fa + o.feature_noise * torch.randn(fa.shape)
            painted.append(noisy)
            inputs.append(torch.cat([f, noisy]).contiguous(memory_format=torch.channels_last))
        rebuilt = self.scaler.undo(self.student(inputs))
        normal, restored = [g[:count] for g in rebuilt], [g[count:] for g in rebuilt]

        easy = ramp(batch.step, o.hard_ramp_steps, o.hard_share)
        mined = partial(hard_mined_loss, easy_fraction=easy)
        losses = {"distil": over_levels(mined, clean, normal)}
        loss = o.weight_hm * losses["distil"]
        if o.weight_point:
            loss = loss + o.weight_point * over_levels(point_loss, clean, normal)
        if o.weight_channel:
            loss = loss + o.weight_channel * over_levels(channel_loss, clean, normal)
        if pseudo_count:
            targets = batch.origin_frozen
            losses["restore"] = over_levels(flat_loss if o.individual == "flat" else channel_loss, targets, restored)
            # The authors' list is an alias, so they compare the noisy features; their figure shows them without noise.
            losses["segment"] = (
                _published_segment_loss(self.scaler.undo(painted), restored, batch)
                if o.strict
                else self._segment_loss(targets, pseudo, restored, batch.mask)
            )
            loss = loss + o.weight_restore * losses["restore"] + o.weight_segment * losses["segment"]
        return {"loss": loss, **losses}

    def _segment_loss(self, clean: list[Tensor], pseudo: list[Tensor], restored: list[Tensor], mask: Tensor) -> Tensor:
        """L_Seg with the mask cut to where the teacher sees a difference at all (5.7d): a paste that looks like the
        part itself is no defect, and learning to mark it would teach false alarms on textures."""
        mean_map = _mean_distance(pseudo, restored)
        with torch.no_grad():
            seen = _mean_distance(pseudo, clean) > self.options.seg_floor
            target = nn.functional.adaptive_max_pool2d(mask, (mean_map.shape[-2], mean_map.shape[-1])) * seen
        return (mean_map - target).abs().mean()

    @torch.no_grad()
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        def measure() -> None:
            chunks = [self.distances(pixels) for pixels in in_chunks(reference)]
            self.fusion.calibrate([torch.cat(level) for level in zip(*chunks, strict=True)])

        choose_floor([self.distance], measure, self.fused, reference, self.options.floors)

    def distances(self, pixels: Tensor) -> list[Tensor]:
        """Distance maps of float32 `[N, 3, H, W]` in [0, 1], per level float32 `[N, 1, H_k, W_k]`."""
        features = self.teacher(pixels)
        rebuilt = self.scaler.undo(self.student(self.scaler(features)))
        distances: list[Tensor] = self.distance(features, rebuilt)
        return distances

    def fused(self, pixels: Tensor) -> Tensor:
        """The anomaly map, float32 `[N, 1, H / 4, W / 4]`."""
        smoothed: Tensor = self.smooth(self.fusion(self.distances(pixels)))
        return smoothed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        distances = self.distances(to_pixels(image))
        anomaly_map = self.smooth(self.fusion(distances))[:, 0]
        return anomaly_map, _refinement(distances) if self.options.strict else None

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # A bright spot on an empty image: there another level varies least than on a full one.
        spot = np.full_like(images[:1], 128)
        place = slice(5 * spot.shape[1] // 16, 7 * spot.shape[1] // 16)
        spot[:, place, place] = 255
        return np.concatenate([images, 255 - images, spot])


def _published_segment_loss(painted: list[Tensor], restored: list[Tensor], batch: Batch) -> Tensor:
    """L_Seg as published: the mean map should be how differently each pixel is coloured. Source: [C] 5.3."""
    size = (batch.pseudo.shape[-2], batch.pseudo.shape[-1])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    target = cosine_distance((batch.pseudo - mean) / std, (batch.origin - mean) / std)
    maps = [cosine_distance(fa, ga) for fa, ga in zip(painted, restored, strict=True)]
    return (torch.stack([resize(level, size) for level in maps]).mean(0) - target).abs().mean()


def _refinement(distances: Sequence[Tensor]) -> Tensor:
    """The published factor on the image score, float32 `[N]`: 1 + the peak of the level that varies least.

    Source: [C] 5.6, by index and not by a Python `sorted`, which an exporter freezes at the example's order.
    """
    size = (distances[0].shape[-2], distances[0].shape[-1])
    spread = torch.stack([resize(level, size).flatten(1).var(1) for level in distances], 1)
    peaks = torch.stack([level.flatten(1).amax(1) for level in distances], 1)
    return 1 + peaks.gather(1, spread.argmin(1, keepdim=True))[:, 0]


def _mean_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Mean over levels of the distance maps, at the finest level's size."""
    size = (a[0].shape[-2], a[0].shape[-1])
    return torch.stack([resize(cosine_distance(x, y), size) for x, y in zip(a, b, strict=True)]).mean(0)
