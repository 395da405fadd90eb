"""N-Net: constrained bidirectional distillation with multilevel filtering (Li et al., Acta Electronica Sinica 2025).

The name describes three strokes. Down: the features of a frozen teacher are projected to *adaptive domain features*.
Up: a reverse branch reconstructs them from a compressed code of the coarse features. Down: a forward branch encodes
the reconstructed features again. Neither branch has access to the image, so an anomaly can only reach them through the
code. In addition, a *query* compares each cell with a memory bank of normal cells. The anomaly map combines the
distances of both branches and of the queries.

Branches and the first query work on a reduced copy of the image, where the receptive field of a cell covers enough
context to detect a wrong pattern. A second query works at full resolution, where a cell still resolves an anomaly of a
few pixels. The two scales are our own (docs/benchmarks.md has the measurements).

Source: only the abstract was available (adaptive domain features, bidirectional branches that constrain each other, a
multilevel filter by query and compression); every layer is our own. See docs/methods.md, section *N-Net*.
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
from training.energy_floor import HasEnergyFloor
from training.errors import InvalidFitConfig
from training.losses import flat_loss, hard_mined_loss, over_levels, ramp
from training.maps import PyramidDistance, cosine_distance
from training.methods.base import Batch, parse_options
from training.methods.two_scales import ScaleOptions, TwoScaleMethod
from training.teachers import Teacher

SOURCES = ("reverse_8", "reverse_16", "forward_8", "forward_16", "query_reduced", "query_full")
"""Names of the maps that are fused, as in `NNetOptions.ensemble_weights`."""


@dataclass(frozen=True)
class NNetOptions(ScaleOptions):
    """Options of N-Net, with their defaults; all are our own unless a source is given."""

    levels: tuple[int, int] = (1, 2)
    """Levels of the teacher's pyramid, from 0: those at strides 8 and 16."""
    width: float = 4.5
    """Finest width of the branches, width * sqrt(coarsest teacher channels), to a multiple of 8."""
    branches: bool = True
    """Train and use the reverse and the forward branch. Without them, the map comes from the memory banks alone."""
    feature_noise: float = 0.1
    """Noise on the branches' input for synthetic images, in standard deviations of each channel; DRD."""
    easy_fraction: float = 0.9
    """Fraction of cells, in [0, 1), that hard mining treats as easy after the ramp; Dinomaly."""
    hard_ramp_steps: int = 200
    """Steps over which the easy fraction rises from 0."""
    margin: float = 0.3
    """Cosine distance by which the adapters push anomalous cells away from normal ones; AAND."""
    weight_forward: float = 1.0
    """Weight of the forward branch relative to the reverse branch."""
    weight_constraint: float = 0.2
    """Weight of the constraint between the two branches."""
    adapt: bool = False
    """Train the adapters; off because they reduced the image AUROC on fine surfaces (docs/benchmarks.md)."""
    energy_floors: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)
    """Energy floors to select from, ascending, see `training.energy_floor`."""
    ensemble_weights: tuple[float, ...] = (1.0, 1.0, 0.5, 0.5, 9.0, 9.0)
    """Weights of the maps: reverse and forward branch (finest level first), query of the reduced copy, of the image."""
    sigma: float = 1.0
    """Standard deviation of the map's smoothing, in cells of 8 pixels."""


class Adapter(nn.Module):
    """Residual projection `a = f + g(f)` to adaptive domain features; the shape `[N, C, H, W]` stays the same.

    The last layer of g is initialised with zeros, so that training starts at the teacher's features. Source: the
    abstract names a feature projection; the layers are our own.

    Args:
        channels: Input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(16, channels // 4)
        self.body = nn.Sequential(ConvBNReLU(channels, inner, kernel=1), ConvBNReLU(inner, inner))
        self.last = nn.Conv2d(inner, channels, 1)
        initialise(self)
        nn.init.zeros_(self.last.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Project the features."""
        adapted: Tensor = features + self.last(self.body(features))
        return adapted


class Branches(nn.Module):
    """Compression, reverse branch and forward branch.

    Source: the abstract names compression and bidirectional branches; the layers are our own.

    Args:
        channels: Channels of the two levels, finest first.
        width: See `NNetOptions.width`.
    """

    def __init__(self, channels: Sequence[int], width: float) -> None:
        super().__init__()
        fine, coarse = channels
        w1 = 8 * max(1, round(width * math.sqrt(coarse) / 8))
        w2, code = 2 * w1, 4 * w1
        self.compress_fine = ConvBNReLU(fine, w2, stride=2)
        self.compress_coarse = ConvBNReLU(coarse, w2, kernel=1)
        self.mix = ConvBNReLU(2 * w2, w2)
        self.code = nn.Sequential(BasicBlock(w2, code, stride=2), BottleneckBlock(code), BottleneckBlock(code))
        self.reverse_coarse = nn.Sequential(UpBlock(code, w2), BasicBlock(w2, w2))
        self.reverse_fine = nn.Sequential(UpBlock(w2, w1), BasicBlock(w1, w1))
        self.forward_fine = ConvBNReLU(w1, w1)
        self.forward_coarse = nn.Sequential(ConvBNReLU(w1, w2, stride=2), ConvBNReLU(w2, w2, kernel=1))
        self.reverse_heads = nn.ModuleList([nn.Conv2d(w1, fine, 1), nn.Conv2d(w2, coarse, 1)])
        self.forward_heads = nn.ModuleList([nn.Conv2d(w1, fine, 1), nn.Conv2d(w2, coarse, 1)])
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Reconstruct the standardised features twice.

        Args:
            features: float `[N, C_1, 2H, 2W]` and `[N, C_2, H, W]`; H and W are even.

        Returns:
            The reverse branch's and the forward branch's reconstruction, each with the shapes of `features`.
        """
        fine, coarse = features
        code = self.code(self.mix(torch.cat([self.compress_fine(fine), self.compress_coarse(coarse)], 1)))
        reverse_coarse = self.reverse_coarse(code)
        reverse_fine = self.reverse_fine(reverse_coarse)
        forward_fine = self.forward_fine(reverse_fine)
        up, down = (reverse_fine, reverse_coarse), (forward_fine, self.forward_coarse(forward_fine))
        reverse = [head(x) for head, x in zip(self.reverse_heads, up, strict=True)]
        return reverse, [head(x) for head, x in zip(self.forward_heads, down, strict=True)]


class NNet(TwoScaleMethod):
    """N-Net, see the module's docstring. Source: the idea is Li et al. 2025, every layer our own.

    Args:
        teacher: The frozen teacher.
        options: The options.
    """

    name: ClassVar[str] = "nnet"
    map_stride: ClassVar[int] = 8
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite2",)  # more accurate than lite0 on fine surfaces
    recommended: ClassVar[Mapping[str, Any]] = {"iterations": 800, "input_size": 384}
    quick: ClassVar[Mapping[str, Any]] = {"branches": False, "prototypes": 2048, "candidates": 40_000}

    def __init__(self, teacher: Teacher, options: NNetOptions) -> None:
        channels = [teacher.channels[level] for level in options.levels]
        used = slice(None) if options.branches else slice(-2, None)
        weights = dict(zip(SOURCES[used], options.ensemble_weights[used], strict=True))
        super().__init__(options, channels, weights, options.energy_floors, options.sigma)
        self.options = options
        self.teacher = teacher
        self.scaler = PyramidScaler(channels)
        self.adapters = nn.ModuleList([Adapter(count) if options.adapt else nn.Identity() for count in channels])
        self.branches = Branches(channels, options.width) if options.branches else None
        self.distance = PyramidDistance(len(channels), options.energy_floors[0])

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        """Build an untrained method from one teacher."""
        (teacher,) = teachers
        parsed = parse_options(NNetOptions, options)
        if parsed.adapt and not parsed.branches:
            raise InvalidFitConfig("adapt is set without branches, which alone use what the adapters learn.")
        return cls(teacher, parsed)

    @property
    def teachers(self) -> list[str]:
        """Return the teacher's registry name."""
        return [self.teacher.name]

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Compute the teacher's features at strides 8 and 16: float32 `[N, C_k, H / s_k, W / s_k]`."""
        pyramid = self.teacher(pixels)
        return [pyramid[level] for level in self.options.levels]

    def compared(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return both levels."""
        return features

    def full_features(self, pixels: Tensor) -> Sequence[Tensor]:
        """Compute both levels for images at full resolution."""
        return self.features(pixels)

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        """Measure the channels' statistics and the levels' energies."""
        self.scaler.measure(frozen)
        self.distance.measure(frozen)

    def adapt(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Project standardised features to standardised adaptive domain features of the same shapes."""
        return [adapter(f) for adapter, f in zip(self.adapters, features, strict=True)]

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the distillation, restoration, constraint and (with `adapt`) adapter losses.

        Source: the abstract names bidirectional distillation with a constraint; the losses are our own.
        """
        o = self.options
        count, synthetic = len(batch.clean), len(batch.synthetic)
        features = [
            torch.cat(level) for level in zip(batch.frozen, batch.origin_frozen, batch.synthetic_frozen, strict=True)
        ]
        standard = [f.contiguous(memory_format=torch.channels_last) for f in self.scaler(features)]
        adaptive = self.scaler.undo(self.adapt(standard))

        targets = [a.detach() for a in adaptive]
        # The branches receive the current adaptive features of clean and synthetic images; the features of the images
        # that the synthetic ones were made from are targets only.
        inputs, losses = [], dict[str, Tensor]()
        for a in self.scaler(targets):
            noise = o.feature_noise * torch.randn((synthetic, *a.shape[1:]))
            inputs.append(
                torch.cat([a[:count], a[count + synthetic :] + noise]).contiguous(memory_format=torch.channels_last)
            )
        assert self.branches is not None  # there are no steps without them
        branches = [self.scaler.undo(branch) for branch in self.branches(inputs)]
        clean, origin = [t[:count] for t in targets], [t[count : count + synthetic] for t in targets]
        mined = partial(hard_mined_loss, easy_fraction=ramp(batch.step, o.hard_ramp_steps, o.easy_fraction))
        weights = (1.0, o.weight_forward)
        parts = [
            w * over_levels(mined, clean, [b[:count] for b in branch])
            for w, branch in zip(weights, branches, strict=True)
        ]
        losses["distil"] = torch.stack(parts).sum()
        losses["constraint"] = over_levels(flat_loss, *branches)
        loss = losses["distil"] + o.weight_constraint * losses["constraint"]
        if synthetic:
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
        """Compute L_keep + L_push: normal cells keep their features, anomalous cells move away from normal ones.

        Source: our own; the margin follows AAND.
        """
        synthetic, loss = len(batch.synthetic), torch.zeros(())
        for f, a in zip(features, adaptive, strict=True):
            moved = cosine_distance(a, f)
            if not synthetic:
                loss = loss + moved.mean()
                continue
            mask = F.adaptive_max_pool2d(batch.mask, (f.shape[-2], f.shape[-1]))
            normal = torch.cat([torch.ones((count + synthetic, *mask.shape[1:])), 1 - mask])
            loss = loss + (moved * normal).sum() / normal.sum()
            origin, anomalous = slice(count, count + synthetic), slice(count + synthetic, None)
            before = cosine_distance(f[anomalous], f[origin])
            after = cosine_distance(a[anomalous], a[origin].detach())
            loss = loss + (F.relu(before + self.options.margin - after) * mask).sum() / mask.sum().clamp_min(1)
        return loss

    @property
    def floored(self) -> Sequence[HasEnergyFloor]:
        """Return the distance of both branches."""
        return [self.distance]

    def own_maps(self, pixels: Tensor, frozen: Sequence[Tensor]) -> list[Tensor]:
        """Compute the distances of the reverse and the forward branch, each finest level first; none without them."""
        del pixels
        if self.branches is None:
            return []
        standard = self.adapt(self.scaler(frozen))
        adaptive = self.scaler.undo(standard)
        reverse, forward = (self.scaler.undo(branch) for branch in self.branches(standard))
        return [*self.distance(adaptive, reverse), *self.distance(adaptive, forward)]

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return four images, their inverses, flipped copies and a plain image, whose nearest prototypes differ."""
        images = images[:4]
        return np.concatenate([images, 255 - images, images[:, ::-1], np.full_like(images[:1], 90)])
