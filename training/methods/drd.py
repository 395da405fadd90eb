"""DRD, dual reverse distillation (Ge et al., Neurocomputing 2025), with student widths scaled to the teacher.

A bottleneck (multi-feature cascade fusion, MFCF, and one-class embedding, OCE) compresses the feature pyramid of a
frozen teacher, and a decoder reconstructs the pyramid from the resulting code. The same student processes normal
images (normal branch) and images with synthetic anomalies (pseudo branch) and reconstructs normal features from both.
At inference, the distance between teacher and reconstruction is the anomaly map.

Source: the authors' code (github.com/GE-123-cpu/Dual-Reverse-Distillation). docs/methods.md, section *DRD*, lists what
is the paper's and what is our own; docs/benchmarks.md has the measurements behind the defaults.
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
from training.energy_floor import HasEnergyFloor
from training.losses import channel_loss, flat_loss, hard_mined_loss, over_levels, point_loss, ramp
from training.maps import PyramidDistance, cosine_distance, resize
from training.methods.base import Batch, parse_options
from training.methods.two_scales import BankOptions, TwoScaleMethod
from training.teachers import IMAGENET_MEAN, IMAGENET_STD, Teacher


@dataclass(frozen=True)
class DrdOptions(BankOptions):
    """Options of DRD, with their defaults; "our own" marks what the authors' code does not have."""

    width: float = 3.0
    """Finest width of the student, width * sqrt(coarsest teacher channels), to a multiple of 8; our own."""
    dropout: float = 0.0
    """Probability of dropping a channel of the bottleneck code, in [0, 1); Dinomaly's noisy bottleneck."""
    feature_noise: float = 0.1
    """Noise on the pseudo branch's input, in standard deviations of each channel; DRD."""
    easy_fraction: float = 0.9
    """Fraction of cells, in [0, 1), that hard mining treats as easy after the ramp; Dinomaly."""
    hard_ramp_steps: int = 200
    """Steps over which the easy fraction rises from 0; our own."""
    weight_hm: float = 1.0
    """Weight of L_hm on the normal branch; Dinomaly."""
    weight_point: float = 0.0
    """Weight of L_pt on the normal branch; DRD 1."""
    weight_channel: float = 0.0
    """Weight of L_chan on the normal branch; DRD 1."""
    weight_restore: float = 1.0
    """Weight of L_Rec; DRD 1."""
    individual: str = "flat"
    """The paper's "individual images" in L_Rec: "flat" (whole image) or "channel" (as in the authors' code)."""
    weight_segment: float = 0.1
    """Weight of L_Seg; DRD 0.1."""
    mask_threshold: float = 0.05
    """Smallest teacher distance at which a masked cell counts as anomalous in L_Seg; our own."""
    level_weights: tuple[float, ...] = (0.5, 1.0, 1.0)
    """Ensemble weights of the map's levels, finest first; our own."""
    energy_floors: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)
    """Energy floors to select from, ascending, see `training.energy_floor`; our own."""
    strict: bool = False
    """Follow the authors' code, including its deviations from the paper, see `published`."""
    sigma: float = 2.0
    """Standard deviation of the map's smoothing, in cells of 4 pixels; DRD 4 pixels, which is 1.0 here."""


def published(**changes: Any) -> DrdOptions:
    """Return the options that correspond to the authors' code.

    They select plain cosine distances, L_pt and L_chan on the levels, the published L_Seg and the factor on the image
    score. Training also needs `FitConfig(pseudo_recipes="published", pseudo_share=1.0, batch_size=4, lr=5e-3)`.
    docs/methods.md, section *DRD*, lists what is not reproduced.

    Source: the authors' code.

    Args:
        **changes: fields of `DrdOptions` that take precedence.

    Returns:
        The options.
    """
    settings: dict[str, Any] = {
        "strict": True,
        "individual": "channel",
        "easy_fraction": 0.0,
        "weight_hm": 0.0,
        "weight_point": 1.0,
        "weight_channel": 1.0,
        "level_weights": (1.0, 1.0, 1.0),
        "energy_floors": (0.0,),
        "reduction": 1.0,
        "banks": False,
        "sigma": 1.0,
    }
    return DrdOptions(**(settings | changes))


class ReverseStudent(nn.Module):
    """MFCF fusion, one-class embedding and decoder; float `[N, C_k, H_k, W_k]` per level -> the same shapes.

    Source: the authors' code, with narrower layers and 1x1 output heads of our own.

    Args:
        channels: Channels of the teacher's three levels, finest first.
        width: See `DrdOptions.width`.
        dropout: See `DrdOptions.dropout`.
    """

    def __init__(self, channels: Sequence[int], width: float, dropout: float) -> None:
        super().__init__()
        c1, c2, c3 = channels
        w1 = 8 * max(1, round(width * math.sqrt(c3) / 8))
        w2, w3, code = 2 * w1, 4 * w1, 6 * w1
        # MFCF: cascade fusion, from the finest to the coarsest level.
        self.fuse1 = ConvBNReLU(c1, w2, stride=2)
        self.fuse2 = ConvBNReLU(w2 + c2, w3, stride=2)
        self.fuse3 = ConvBNReLU(w3 + c3, w3)
        # OCE: the authors use three bottleneck blocks of a Wide ResNet.
        self.embed = nn.Sequential(
            BasicBlock(w3, code, stride=2), BottleneckBlock(code), BottleneckBlock(code), nn.Dropout2d(dropout)
        )
        self.decode3 = nn.Sequential(UpBlock(code, w3), BasicBlock(w3, w3))
        self.decode2 = nn.Sequential(UpBlock(w3, w2), BasicBlock(w2, w2))
        self.decode1 = nn.Sequential(UpBlock(w2, w1), BasicBlock(w1, w1))
        self.heads = nn.ModuleList([nn.Conv2d(w, c, 1) for w, c in zip((w1, w2, w3), channels, strict=True)])
        initialise(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Reconstruct the standardised features."""
        f1, f2, f3 = features
        x = self.fuse1(f1)
        x = self.fuse2(torch.cat([x, f2], 1))
        x = self.embed(self.fuse3(torch.cat([x, f3], 1)))
        d3 = self.decode3(x)
        d2 = self.decode2(d3)
        d1 = self.decode1(d2)
        return [head(d) for head, d in zip(self.heads, (d1, d2, d3), strict=True)]


class DualReverseDistillation(TwoScaleMethod):
    """DRD, see the module's docstring. Source: Ge et al., Neurocomputing 2025.

    Args:
        teacher: The frozen teacher.
        options: The options.
    """

    name: ClassVar[str] = "drd"
    map_stride: ClassVar[int] = 4
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite2",)  # as for N-Net
    recommended: ClassVar[Mapping[str, Any]] = {"iterations": 600, "input_size": 384}

    def __init__(self, teacher: Teacher, options: DrdOptions) -> None:
        weights = {f"level_{number}": weight for number, weight in enumerate(options.level_weights, start=1)}
        channels = teacher.channels[1:] if options.banks else None
        super().__init__(options, channels, options.with_banks(weights), options.energy_floors, options.sigma)
        self.options = options
        self.teacher = teacher
        self.scaler = PyramidScaler(teacher.channels)
        self.student = ReverseStudent(teacher.channels, options.width, options.dropout)
        self.distance = PyramidDistance(len(teacher.channels), options.energy_floors[0])

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        """Build an untrained method from one teacher; `strict` changes the defaults of the other options."""
        (teacher,) = teachers
        given = parse_options(DrdOptions, options)
        if given.strict:  # options that are set explicitly take precedence
            given = published(**{name: getattr(given, name) for name in options})
        return cls(teacher, given)

    @property
    def teachers(self) -> list[str]:
        """Return the teacher's registry name."""
        return [self.teacher.name]

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Compute the teacher's pyramid."""
        features: list[Tensor] = self.teacher(pixels)
        return features

    def compared(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the levels at strides 8 and 16."""
        return features[1:]

    def full_features(self, pixels: Tensor) -> Sequence[Tensor]:
        """Compute the levels at strides 8 and 16 for images at full resolution."""
        return self.features(pixels)[1:]

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        """Measure the channels' statistics and the levels' energies."""
        self.scaler.measure(frozen)
        self.distance.measure(frozen)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute L_KD on normal images, L_Rec and L_Seg on synthetic ones.

        Source: the losses are the paper's; L_hm as L_KD is Dinomaly's, the mask of L_Seg our own (unless `strict`).
        """
        o = self.options
        clean = batch.frozen
        count, synthetic_count = len(clean[0]), len(batch.synthetic)
        synthetic = batch.synthetic_frozen
        inputs, noisy_features = [], []
        for f, fa in zip(self.scaler(clean), self.scaler(synthetic), strict=True):
            # randn of a contiguous shape is five times faster than randn_like of a channels-last tensor.
            noisy = fa + o.feature_noise * torch.randn(fa.shape)
            noisy_features.append(noisy)
            inputs.append(torch.cat([f, noisy]).contiguous(memory_format=torch.channels_last))
        reconstructed = self.scaler.undo(self.student(inputs))
        normal, restored = [g[:count] for g in reconstructed], [g[count:] for g in reconstructed]

        mined = partial(hard_mined_loss, easy_fraction=ramp(batch.step, o.hard_ramp_steps, o.easy_fraction))
        losses = {"distil": over_levels(mined, clean, normal)}
        loss = o.weight_hm * losses["distil"]
        if o.weight_point:
            loss = loss + o.weight_point * over_levels(point_loss, clean, normal)
        if o.weight_channel:
            loss = loss + o.weight_channel * over_levels(channel_loss, clean, normal)
        if synthetic_count:
            targets = batch.origin_frozen
            losses["restore"] = over_levels(flat_loss if o.individual == "flat" else channel_loss, targets, restored)
            # The authors' code compares the noisy features because of a list alias; the paper's figure shows the
            # features without noise.
            losses["segment"] = (
                _published_segment_loss(self.scaler.undo(noisy_features), restored, batch)
                if o.strict
                else self._segment_loss(targets, synthetic, restored, batch.mask)
            )
            loss = loss + o.weight_restore * losses["restore"] + o.weight_segment * losses["segment"]
        return {"loss": loss, **losses}

    def _segment_loss(
        self, clean: list[Tensor], synthetic: list[Tensor], restored: list[Tensor], mask: Tensor
    ) -> Tensor:
        """Compute L_Seg with the mask restricted to cells where the teacher's features differ.

        A pasted piece that looks like the part itself is not an anomaly; a target of 1 there would teach false
        positives on textures. Source: the loss is DRD's, the restriction of the mask our own.
        """
        mean_map = _mean_distance(synthetic, restored)
        with torch.no_grad():
            changed = _mean_distance(synthetic, clean) > self.options.mask_threshold
            target = nn.functional.adaptive_max_pool2d(mask, (mean_map.shape[-2], mean_map.shape[-1])) * changed
        return (mean_map - target).abs().mean()

    @property
    def floored(self) -> Sequence[HasEnergyFloor]:
        """Return the distance of the student."""
        return [self.distance]

    def own_maps(self, pixels: Tensor, frozen: Sequence[Tensor]) -> list[Tensor]:
        """Compute the distance map of each level, float32 `[N, 1, H_k, W_k]`, finest first, in [0, 2]."""
        del pixels
        reconstructed = self.scaler.undo(self.student(self.scaler(frozen)))
        distances: list[Tensor] = self.distance(frozen, reconstructed)
        return distances

    def gain(self, maps: Sequence[Tensor]) -> Tensor | None:
        """Return the factor on the image score with `strict`, else None."""
        return _refinement(maps[: len(self.teacher.channels)]) if self.options.strict else None

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the images, their inverses and a bright square, on which another level has the smallest variance."""
        spot = np.full_like(images[:1], 128)
        square = slice(5 * spot.shape[1] // 16, 7 * spot.shape[1] // 16)
        spot[:, square, square] = 255
        return np.concatenate([images, 255 - images, spot])


def _published_segment_loss(noisy: list[Tensor], restored: list[Tensor], batch: Batch) -> Tensor:
    """Compute L_Seg as published: the target is the cosine distance of the RGB values. Source: DRD's code."""
    size = (batch.synthetic.shape[-2], batch.synthetic.shape[-1])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    target = cosine_distance((batch.synthetic - mean) / std, (batch.origin - mean) / std)
    maps = [cosine_distance(fa, ga) for fa, ga in zip(noisy, restored, strict=True)]
    return (torch.stack([resize(level, size) for level in maps]).mean(0) - target).abs().mean()


def _refinement(distances: Sequence[Tensor]) -> Tensor:
    """Compute the published factor on the image score, 1 + the maximum of the level with the smallest variance.

    Source: DRD's code ("detection refinement"). The level is selected by index instead of a Python `sorted`, whose
    result an exporter would fix for all inputs.

    Args:
        distances: float32 `[N, 1, H_k, W_k]` per level.

    Returns:
        float32 `[N]` in [1, 3].
    """
    size = (distances[0].shape[-2], distances[0].shape[-1])
    spread = torch.stack([resize(level, size).flatten(1).var(1) for level in distances], 1)
    peaks = torch.stack([level.flatten(1).amax(1) for level in distances], 1)
    return 1 + peaks.gather(1, spread.argmin(1, keepdim=True))[:, 0]


def _mean_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Average the distance maps over the levels, at the size of the finest one."""
    size = (a[0].shape[-2], a[0].shape[-1])
    return torch.stack([resize(cosine_distance(x, y), size) for x, y in zip(a, b, strict=True)]).mean(0)
