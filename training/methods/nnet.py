"""N-Net: bidirectional distillation of adaptive features through a query filter (Li et al. 2025).

Three strokes, like the letter. Down: a frozen teacher's features, projected to *adaptive domain features*, whose
normal part stays what it was while painted defects are pushed away. Up: a reverse branch rebuilds them from a code
that was squeezed from the coarse features. Down again: a forward branch encodes the rebuilt features anew. Neither
branch sees the image itself, so neither can copy a defect past the code. Beside them a query compares every place
with prototypes of normal places. Where branches and prototypes disagree with the image, it is unusual.

All of that looks at a reduced copy of the image, where a cell sees enough around it to tell a wrong pattern. A second
query looks at the image itself, where a cell still sees a defect of a few pixels. Neither size can do without the
other; our own, measured in docs/benchmarks.md.

Sources: [P] the abstract (distilling adaptive domain features, bidirectional branches that constrain each other, a
multilevel filter by query and compression); no text and no code could be had, so every layer is our own reading,
sections of the design notes in brackets. What was tried and measured is in docs/benchmarks.md.
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
from torch.nn import functional as F

from training.blocks import BasicBlock, BottleneckBlock, ConvBNReLU, PyramidScaler, UpBlock, initialise
from training.energy_floor import choose_floor
from training.losses import flat_loss, hard_mined_loss, over_levels, ramp
from training.maps import Gaussian, LevelFusion, PyramidDistance, cosine_distance, resize
from training.memory_bank import FEW_CANDIDATES, MOST_CANDIDATES, Query
from training.methods.base import Batch, Method, parse_options
from training.pixels import in_chunks, to_pixels
from training.teachers import Teacher


@dataclass(frozen=True)
class NNetOptions:
    """N-Net's own knobs; the defaults are what ships."""

    levels: tuple[int, int] = (1, 2)  # of the teacher's pyramid: strides 8 and 16
    width: float = 4.5  # finest width of the branches = width * sqrt(coarsest teacher channels), to a multiple of 8
    reduction: float = 2 / 3  # side of the reduced copy, of the image's; to a multiple of 32; our own
    prototypes: int = 2048  # of each query
    feature_noise: float = 0.1  # on the painted branch's input, in standard deviations of each channel; [C] DRD
    hard_share: float = 0.9  # places that hard mining counts as easy, after the ramp; [R] Dinomaly
    hard_ramp_steps: int = 200
    margin: float = 0.3  # by which painted places are pushed away from what they were; [R] AAND
    weight_forward: float = 1.0
    weight_constraint: float = 0.2  # of the two branches on each other; 4.4
    adapt: bool = False  # train the adapters; they cost a point of image AUROC on fine surfaces, docs/benchmarks.md
    floors: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)  # to choose from, see `training.energy_floor`
    source_weights: tuple[float, ...] = (1.0, 1.0, 0.5, 0.5, 9.0, 9.0)  # reverse, forward (finest first), queries
    sigma: float = 1.0  # of the map's smoothing, in cells of 8 pixels


class Adapter(nn.Module):
    """`a = f + g(f)`, `[N, C, H, W]` -> the same; g ends in zeros, so that training begins at the teacher (4.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(16, channels // 4)
        self.body = nn.Sequential(ConvBNReLU(channels, inner, kernel=1), ConvBNReLU(inner, inner))
        self.last = nn.Conv2d(inner, channels, 1)
        initialise(self)
        nn.init.zeros_(self.last.weight)

    def forward(self, features: Tensor) -> Tensor:
        adapted: Tensor = features + self.last(self.body(features))
        return adapted


class Branches(nn.Module):
    """Compression and the two branches: two levels `[N, C_k, H_k, W_k]` -> the reverse and the forward pair (4.3)."""

    def __init__(self, channels: Sequence[int], width: float) -> None:
        super().__init__()
        fine, coarse = channels
        w1 = 8 * max(1, round(width * math.sqrt(coarse) / 8))
        w2, code = 2 * w1, 4 * w1
        self.squeeze_fine = ConvBNReLU(fine, w2, stride=2)
        self.squeeze_coarse = ConvBNReLU(coarse, w2, kernel=1)
        self.mix = ConvBNReLU(2 * w2, w2)
        self.code = nn.Sequential(BasicBlock(w2, code, stride=2), BottleneckBlock(code), BottleneckBlock(code))
        self.up_coarse = nn.Sequential(UpBlock(code, w2), BasicBlock(w2, w2))
        self.up_fine = nn.Sequential(UpBlock(w2, w1), BasicBlock(w1, w1))
        self.again_fine = ConvBNReLU(w1, w1)
        self.again_coarse = nn.Sequential(ConvBNReLU(w1, w2, stride=2), ConvBNReLU(w2, w2, kernel=1))
        self.reverse_heads = nn.ModuleList([nn.Conv2d(w1, fine, 1), nn.Conv2d(w2, coarse, 1)])
        self.forward_heads = nn.ModuleList([nn.Conv2d(w1, fine, 1), nn.Conv2d(w2, coarse, 1)])
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        fine, coarse = features
        code = self.code(self.mix(torch.cat([self.squeeze_fine(fine), self.squeeze_coarse(coarse)], 1)))
        coarse_up = self.up_coarse(code)
        fine_up = self.up_fine(coarse_up)
        fine_again = self.again_fine(fine_up)
        up, again = (fine_up, coarse_up), (fine_again, self.again_coarse(fine_again))
        reverse = [head(x) for head, x in zip(self.reverse_heads, up, strict=True)]
        return reverse, [head(x) for head, x in zip(self.forward_heads, again, strict=True)]


class NNet(Method):
    """See the module's docstring."""

    name: ClassVar[str] = "nnet"
    map_stride: ClassVar[int] = 8
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite2",)  # better than lite0 on fine surfaces
    recommended: ClassVar[Mapping[str, Any]] = {"iterations": 800, "input_size": 384}

    def __init__(self, teacher: Teacher, options: NNetOptions) -> None:
        super().__init__()
        self.options = options
        self.teacher = teacher
        channels = [teacher.channels[level] for level in options.levels]
        self.scaler = PyramidScaler(channels)
        self.adapters = nn.ModuleList([Adapter(count) if options.adapt else nn.Identity() for count in channels])
        self.branches = Branches(channels, options.width)
        self.query_reduced, self.query_whole = (Query(channels, options.prototypes) for _ in range(2))
        self.distance = PyramidDistance(len(channels), options.floors[0])
        self.fusion = LevelFusion(options.source_weights)
        self.smooth = Gaussian(options.sigma)

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        (teacher,) = teachers
        return cls(teacher, parse_options(NNetOptions, options))

    @property
    def teachers(self) -> list[str]:
        return [self.teacher.name]

    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        """The two levels of the reduced copy."""
        height, width = (32 * max(1, round(side * self.options.reduction / 32)) for side in pixels.shape[-2:])
        return self.levels(resize(pixels, (height, width)))

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """The teacher's features at strides 8 and 16."""
        pyramid = self.teacher(pixels)
        return [pyramid[level] for level in self.options.levels]

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        self.scaler.measure(frozen)
        self.distance.measure(frozen)

    @torch.no_grad()
    def consolidate(self, images: NDArray[np.uint8], frozen: Sequence[Tensor]) -> None:
        self.query_reduced.learn(zip(*(torch.split(level, 64) for level in frozen), strict=True), len(images))
        self.query_whole.learn((self.levels(pixels) for pixels in in_chunks(images)), len(images))

    def adapt(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Adaptive domain features of standardised ones, standardised as well."""
        return [adapter(f) for adapter, f in zip(self.adapters, features, strict=True)]

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        o = self.options
        count, painted = len(batch.clean), len(batch.pseudo)
        features = [
            torch.cat(level) for level in zip(batch.frozen, batch.origin_frozen, batch.pseudo_frozen, strict=True)
        ]
        standard = [f.contiguous(memory_format=torch.channels_last) for f in self.scaler(features)]
        adaptive = self.scaler.undo(self.adapt(standard))

        targets = [a.detach() for a in adaptive]
        # The branches start from what the adapters say now; the image that a defect was painted on is only a target.
        inputs, losses = [], dict[str, Tensor]()
        for a in self.scaler(targets):
            noise = o.feature_noise * torch.randn((painted, *a.shape[1:]))
            inputs.append(
                torch.cat([a[:count], a[count + painted :] + noise]).contiguous(memory_format=torch.channels_last)
            )
        branches = [self.scaler.undo(branch) for branch in self.branches(inputs)]
        clean, origin = [t[:count] for t in targets], [t[count : count + painted] for t in targets]
        mined = partial(hard_mined_loss, easy_fraction=ramp(batch.step, o.hard_ramp_steps, o.hard_share))
        weights = (1.0, o.weight_forward)
        parts = [
            w * over_levels(mined, clean, [b[:count] for b in branch])
            for w, branch in zip(weights, branches, strict=True)
        ]
        losses["distil"] = torch.stack(parts).sum()
        losses["constraint"] = over_levels(flat_loss, *branches)
        loss = losses["distil"] + o.weight_constraint * losses["constraint"]
        if painted:
            parts = [
                w * over_levels(flat_loss, origin, [b[count:] for b in branch])
                for w, branch in zip(weights, branches, strict=True)
            ]
            losses["restore"] = torch.stack(parts).sum()
            loss = loss + losses["restore"]
        if o.adapt:
            losses["adapter"] = self._adapter_loss(features, adaptive, batch, count)
            loss = loss + losses["adapter"]
        return {"loss": loss, **losses}

    def _adapter_loss(self, features: list[Tensor], adaptive: list[Tensor], batch: Batch, count: int) -> Tensor:
        """L_keep + L_push (4.4): normal places stay, painted ones move away from what was there before."""
        painted, loss = len(batch.pseudo), torch.zeros(())
        for f, a in zip(features, adaptive, strict=True):
            moved = cosine_distance(a, f)
            if not painted:
                loss = loss + moved.mean()
                continue
            mask = F.adaptive_max_pool2d(batch.mask, (f.shape[-2], f.shape[-1]))
            normal = torch.cat([torch.ones((count + painted, *mask.shape[1:])), 1 - mask])
            loss = loss + (moved * normal).sum() / normal.sum()
            was, now = slice(count, count + painted), slice(count + painted, None)
            before, after = cosine_distance(f[now], f[was]), cosine_distance(a[now], a[was].detach())
            loss = loss + (F.relu(before + self.options.margin - after) * mask).sum() / mask.sum().clamp_min(1)
        return loss

    @torch.no_grad()
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        queries = (self.query_reduced, self.query_whole)

        def measure(candidates: int = FEW_CANDIDATES) -> None:
            for query in queries:
                query.choose(self.distance.floor, candidates)
            chunks = [self.sources(pixels) for pixels in in_chunks(reference)]
            self.fusion.calibrate([torch.cat(source) for source in zip(*chunks, strict=True)])

        choose_floor([self.distance], measure, self.fused, reference, self.options.floors)
        measure(MOST_CANDIDATES)
        for query in queries:
            query.forget()

    def sources(self, pixels: Tensor) -> list[Tensor]:
        """Distance maps of float32 `[N, 3, H, W]` in [0, 1]: reverse and forward, finest first, then the queries'
        of the reduced copy and of the image itself."""
        features = self.frozen_features(pixels)
        standard = self.adapt(self.scaler(features))
        adaptive = self.scaler.undo(standard)
        reverse, forward = (self.scaler.undo(branch) for branch in self.branches(standard))
        return [
            *self.distance(adaptive, reverse),
            *self.distance(adaptive, forward),
            self.query_reduced(features),
            self.query_whole(self.levels(pixels)),
        ]

    def fused(self, pixels: Tensor) -> Tensor:
        """The anomaly map, float32 `[N, 1, H / 8, W / 8]`."""
        size = (pixels.shape[-2] // self.map_stride, pixels.shape[-1] // self.map_stride)
        smoothed: Tensor = self.smooth(self.fusion(self.sources(pixels), size))
        return smoothed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.fused(to_pixels(image))[:, 0], None

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Turned, inverted and flat images lie nearest to other prototypes.
        return np.concatenate([images, 255 - images, images[:, ::-1], np.full_like(images[:1], 90)])
