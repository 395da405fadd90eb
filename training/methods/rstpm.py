"""RSTPM: two student-teacher pairs and a discriminative network (Yamada, Kamiya & Hotta 2022, arXiv:2210.07548).

The first student receives the image and predicts the first teacher's features. The second student reconstructs the
second teacher's features from the coarsest features of the first, with attention gates computed from the second
teacher. The distance maps of both pairs are summed level by level. A U-Net, trained on synthetic anomalies, predicts
from these sums alone which cells are anomalous.

Sources: the abstract and the figures of the paper; STFPM and DRAEM, on which it builds. docs/methods.md, section
*RSTPM*, lists what is the paper's and what is our own; docs/benchmarks.md has the measurements behind the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.blocks import BasicBlock, ConvBNReLU, PyramidScaler, UNet, UpBlock, initialise
from training.energy_floor import HasEnergyFloor
from training.losses import flat_loss, focal_loss, hard_mined_loss, point_loss, ramp
from training.maps import PyramidDistance, cosine_distance, resize
from training.methods.base import Batch, parse_options
from training.methods.two_scales import BankOptions, TwoScaleMethod
from training.pixels import in_chunks
from training.teachers import Teacher

_EPS = 1e-6


@dataclass(frozen=True)
class RstpmOptions(BankOptions):
    """Options of RSTPM, with their defaults; all are our own unless a source is given."""

    width: int = 32
    """Channels of both students at stride 4; doubled with every level."""
    unet_width: int = 16
    """Channels of the U-Net's first stage; doubled with every stage."""
    loss: Literal["mined", "flat", "point"] = "mined"
    """Distillation loss: "mined" (L_hm), "flat" (L_flat) or "point" (L_pt, the paper's)."""
    easy_fraction: float = 0.9
    """Fraction of cells, in [0, 1), that hard mining treats as easy after the ramp; Dinomaly."""
    hard_ramp_steps: int = 200
    """Steps over which the easy fraction rises from 0."""
    mask_threshold: float = 0.05
    """Smallest distance of the first teacher at which a masked cell counts as anomalous."""
    fusion: Literal["blend", "product"] = "blend"
    """Fusion of the maps: "blend" (weighted mean) or "product" (the paper's, caption of figure 6)."""
    unet_floor: float = 0.9
    """Lower bound of the factor that the U-Net applies to the blend, in [0, 1]."""
    product_floor: float = 0.05
    """Lower bound of the factor that the U-Net applies to the product, in [0, 1]."""
    level_weights: tuple[float, ...] = (0.5, 1.0, 1.0)
    """Ensemble weights of the blend's levels, finest first."""
    energy_floor: float = 0.5
    """Energy floor of the students' distances, in mean energies, see `training.maps.cosine_distance`."""
    energy_floors: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)
    """Energy floors of the memory banks to select from, ascending, see `training.energy_floor`."""
    sigma: float = 2.0
    """Standard deviation of the map's smoothing, in cells of 4 pixels; STFPM 4 pixels, which is 1.0 here."""


class ImageStudent(nn.Module):
    """Student 1, which predicts the first teacher's features from the image.

    The paper distils a ResNet-18 (figure 6). This network has one block per level and is therefore faster on a CPU; it
    is randomly initialised as well. Source: our own.

    Args:
        channels: Channels of the first teacher's levels, finest first.
        width: Channels at stride 4.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(len(channels))]
        self.stem = ConvBNReLU(3, width // 2, kernel=5, stride=2)
        cins = [width // 2, *widths[:-1]]
        self.stages = nn.ModuleList(
            [nn.Sequential(ConvBNReLU(cin, w, stride=2), BasicBlock(w, w)) for cin, w in zip(cins, widths, strict=True)]
        )
        self.heads = nn.ModuleList([nn.Conv2d(w, c, 1) for w, c in zip(widths, channels, strict=True)])
        initialise(self)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Predict the standardised features.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1].

        Returns:
            float `[N, C_k, H / s_k, W / s_k]` per level, finest first.
        """
        x = self.stem(pixels * 4 - 2)
        features = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            features.append(head(x))
        return features


class Gate(nn.Sequential):
    """Spatial attention computed from a teacher's features; float `[N, C, H, W]` -> `[N, 1, H, W]` in (0, 1).

    Source: figure 4 of the paper. The single channel is our own: a gate per channel could pass the features of the
    tested image, including its anomaly, into the reconstruction that is compared with them.

    Args:
        channels: Channels of the teacher's level.
    """

    def __init__(self, channels: int) -> None:
        hidden = max(8, channels // 4)
        super().__init__(ConvBNReLU(channels, hidden), nn.Conv2d(hidden, 1, 1), nn.Sigmoid())


class GatedDecoder(nn.Module):
    """Student 2, which reconstructs the second teacher's pyramid from the first teacher's coarsest level.

    The paper decodes the output of the first teacher's fourth stage (figure 6). Our teachers end at stride 16, so a
    trained block reduces that level to stride 32 first. Source: the topology is the paper's, the layers our own.

    Args:
        code: Channels of the first teacher's coarsest level.
        channels: Channels of the second teacher's levels, finest first.
        width: Channels at stride 4.
    """

    def __init__(self, code: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(len(channels))]
        self.squeeze = BasicBlock(code, widths[-1], stride=2)
        cins = [*widths[1:], widths[-1]]
        self.stages = nn.ModuleList(
            [nn.Sequential(UpBlock(cin, w), BasicBlock(w, w)) for cin, w in zip(cins, widths, strict=True)]
        )
        self.gates = nn.ModuleList([Gate(c) for c in channels])
        self.heads = nn.ModuleList([nn.Conv2d(w, c, 1) for w, c in zip(widths, channels, strict=True)])
        initialise(self)

    def forward(self, code: Tensor, gating: Sequence[Tensor]) -> list[Tensor]:
        """Reconstruct the standardised features.

        Args:
            code: float `[N, C, H, W]`, the first teacher's coarsest level, standardised.
            gating: float `[N, C_k, H_k, W_k]` per level, the second teacher's features, standardised; inputs of the
                gates only.

        Returns:
            float `[N, C_k, H_k, W_k]` per level, finest first.
        """
        x = self.squeeze(code)
        reconstructed: list[Tensor] = []
        for level in reversed(range(len(self.heads))):
            x = self.stages[level](x) * self.gates[level](gating[level])
            reconstructed.insert(0, self.heads[level](x))
        return reconstructed


class PairSum(nn.Module):
    """Sum of both pairs' distance maps per level, each divided by its standard deviation on normal images.

    Source: the sums (O1+O6), (O2+O5), (O3+O4) are from figure 6; the division is our own, without it the pair with the
    larger values would dominate.

    Args:
        levels: Number of levels.
    """

    spread: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(2, levels))

    def measure(self, pairs: Sequence[Sequence[Tensor]], weight: float = 1.0) -> None:
        """Update the standard deviations.

        Args:
            pairs: For each pair the maps of normal images, float32 `[N, 1, H_k, W_k]` per level.
            weight: In [0, 1]; the new value is `(1 - weight) * old + weight * measured`.
        """
        now = torch.stack([torch.stack([level.std().clamp_min(_EPS) for level in maps]) for maps in pairs])
        self.spread.lerp_(now, weight)

    def forward(self, pairs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Sum two pyramids of maps `[N, 1, H_k, W_k]` into one of the same shapes."""
        first, second = pairs
        return [
            a / self.spread[0, k] + b / self.spread[1, k] for k, (a, b) in enumerate(zip(first, second, strict=True))
        ]


class RSTPM(TwoScaleMethod):
    """RSTPM, see the module's docstring. Source: Yamada, Kamiya & Hotta 2022.

    Args:
        teachers: The two frozen teachers.
        options: The options.
    """

    name: ClassVar[str] = "rstpm"
    map_stride: ClassVar[int] = 4
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite0", "efficientnet_lite2")
    recommended: ClassVar[Mapping[str, Any]] = {
        "iterations": 900,
        "batch_size": 8,
        "pseudo_pool": 300,
        "lr": 2e-3,
        "input_size": 384,
    }
    stages: ClassVar[tuple[float, ...]] = (0.75, 1.0)

    quantile: Tensor

    def __init__(self, teachers: Sequence[Teacher], options: RstpmOptions) -> None:
        first, second = teachers
        own = {f"level_{number}": weight for number, weight in enumerate(options.level_weights, start=1)}
        if options.fusion == "product":
            own = {"product": sum(own.values())}
        channels = second.channels[1:] if options.banks else None
        super().__init__(options, channels, options.with_banks(own), options.energy_floors, options.sigma)
        self.options = options
        self.teacher1, self.teacher2 = first, second
        self.levels = len(first.channels)
        self.scaler1, self.scaler2 = PyramidScaler(first.channels), PyramidScaler(second.channels)
        self.student1 = ImageStudent(first.channels, options.width)
        self.student2 = GatedDecoder(first.channels[-1], second.channels, options.width)
        self.distance1 = PyramidDistance(self.levels, options.energy_floor)
        self.distance2 = PyramidDistance(self.levels, options.energy_floor)
        self.pair_sum = PairSum(self.levels)
        self.unet = UNet(self.levels, options.unet_width)
        self.register_buffer("quantile", torch.ones(self.levels))

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        """Build an untrained method from two teachers."""
        return cls(teachers, parse_options(RstpmOptions, options))

    @property
    def teachers(self) -> list[str]:
        """Return both teachers' registry names."""
        return [self.teacher1.name, self.teacher2.name]

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Compute both teachers' pyramids, one after the other, each finest level first."""
        return [*self.teacher1(pixels), *self.teacher2(pixels)]

    def compared(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the second teacher's levels at strides 8 and 16."""
        return features[self.levels + 1 :]

    def full_features(self, pixels: Tensor) -> Sequence[Tensor]:
        """Compute the second teacher's levels at strides 8 and 16 for images at full resolution."""
        levels: list[Tensor] = self.teacher2(pixels)
        return levels[1:]

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        """Measure the channels' statistics and the levels' energies of both teachers."""
        first, second = frozen[: self.levels], frozen[self.levels :]
        self.scaler1.measure(first)
        self.scaler2.measure(second)
        self.distance1.measure(first)
        self.distance2.measure(second)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Train the students on normal images in stage A, the U-Net in stage B."""
        if batch.progress < self.stages[0]:
            return self._distil(batch)
        # In stage B the students are in evaluation mode, with the BatchNorm statistics of the exported graph.
        self.student1.eval()
        self.student2.eval()
        return self._discriminate(batch)

    def _distil(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the distillation losses of stage A, on normal images only.

        Source: the abstract ("STPM does not use anomaly images for training").
        """
        o = self.options
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "mined": partial(hard_mined_loss, easy_fraction=ramp(batch.step, o.hard_ramp_steps, o.easy_fraction)),
            "flat": flat_loss,
            "point": point_loss,
        }
        students = self.students(batch.clean, batch.frozen)
        terms = [losses[o.loss](t, s) for t, s in zip(batch.frozen, students, strict=True)]
        first, second = torch.stack(terms[: self.levels]).sum(), torch.stack(terms[self.levels :]).sum()
        return {"loss": first + second, "distil": first, "reconstruct": second}

    def _discriminate(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the focal loss of stage B, on normal and synthetic images, with frozen students.

        Source: the focal loss is the paper's; the two stages follow DeSTSeg (Zhang et al., CVPR 2023).
        """
        with torch.no_grad():
            clean = self.distances(batch.clean, batch.frozen)
            # A running mean over the stage, starting with its first batch.
            done = batch.step - math.ceil(self.stages[0] * batch.steps)
            self.pair_sum.measure(clean, 1 / (1 + done))
            maps = self.pair_sum(clean)
            target = torch.zeros_like(maps[0])
            if len(batch.synthetic):
                synthetic = self.pair_sum(self.distances(batch.synthetic, batch.synthetic_frozen))
                maps = [torch.cat(pair) for pair in zip(maps, synthetic, strict=True)]
                target = torch.cat([target, self._target(batch)])
        focal = focal_loss(self._logits(maps), target)
        return {"loss": focal, "focal": focal}

    def _target(self, batch: Batch) -> Tensor:
        """Compute the mask on the map's grid, restricted to cells where the first teacher's features differ.

        A pasted piece that looks like the part itself is not an anomaly. Source: our own.
        """
        pairs = zip(batch.synthetic_frozen[: self.levels], batch.origin_frozen[: self.levels], strict=True)
        size = (batch.synthetic_frozen[0].shape[-2], batch.synthetic_frozen[0].shape[-1])
        distance = torch.stack([resize(cosine_distance(a, b), size) for a, b in pairs]).mean(0)
        return nn.functional.adaptive_max_pool2d(batch.mask, size) * (distance > self.options.mask_threshold)

    def students(self, pixels: Tensor, frozen: Sequence[Tensor]) -> list[Tensor]:
        """Compute both students' estimates of `frozen_features`, in the same order and shapes.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1].
            frozen: The result of `frozen_features` for them.

        Returns:
            float32 `[N, C_k, H_k, W_k]` per level of the first and then of the second teacher.
        """
        code = self.scaler1(frozen[: self.levels])[-1]
        predicted = self.student1(self.reduced(pixels).contiguous(memory_format=torch.channels_last))
        reconstructed = self.student2(code, self.scaler2(frozen[self.levels :]))
        return [*self.scaler1.undo(predicted), *self.scaler2.undo(reconstructed)]

    def distances(self, pixels: Tensor, frozen: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute both pairs' distance maps, float32 `[N, 1, H_k, W_k]` per level, in [0, 2]."""
        students, n = self.students(pixels, frozen), self.levels
        return self.distance1(frozen[:n], students[:n]), self.distance2(frozen[n:], students[n:])

    def _logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Apply the U-Net to log(1 + x) of the summed maps, float32 `[N, 1, H, W]` logits.

        The logarithm limits the range: the distances of an anomaly can be a hundred times those of a normal cell.
        Source: our own.
        """
        size = (maps[0].shape[-2], maps[0].shape[-1])
        logits: Tensor = self.unet(torch.cat([resize(m, size) for m in maps], 1).log1p())
        return logits.float()

    @torch.no_grad()
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        """Measure the spreads of the pairs and the 99.5 % quantile of each level, and calibrate banks and fusion."""
        chunks = [self.distances(pixels, self.frozen_features(pixels)) for pixels in in_chunks(reference)]
        pairs = [[torch.cat(level) for level in zip(*(c[i] for c in chunks), strict=True)] for i in (0, 1)]
        self.pair_sum.measure(pairs)
        maps = self.pair_sum(pairs)
        self.quantile.copy_(torch.tensor([float(np.quantile(m.numpy(), 0.995)) for m in maps]).clamp_min(_EPS))
        super().calibrate(reference)

    @property
    def floored(self) -> Sequence[HasEnergyFloor]:
        """Return nothing: the energy floor of the students is fixed, because the U-Net is trained on their maps."""
        return []

    def own_maps(self, pixels: Tensor, frozen: Sequence[Tensor]) -> list[Tensor]:
        """Compute the summed maps of both pairs, as the U-Net leaves them, see `suppressed`."""
        maps = self.pair_sum(self.distances(pixels, frozen))
        return self.suppressed(maps, self._logits(maps).sigmoid())

    def suppressed(self, maps: Sequence[Tensor], probability: Tensor) -> list[Tensor]:
        """Apply the U-Net's probability to the summed maps.

        "product" follows the paper: all levels and the U-Net must agree. "blend" is our own: it keeps the levels, which
        are added up, so that an anomaly on a single level is kept, and bounds the factor of the U-Net from below.

        Args:
            maps: float32 `[N, 1, H_k, W_k]` per level, finest first.
            probability: float32 `[N, 1, H, W]` in [0, 1], with the size of the finest map.

        Returns:
            float32 `[N, 1, H, W]`, >= 0: one per level with "blend", a single one with "product".
        """
        o, size = self.options, (maps[0].shape[-2], maps[0].shape[-1])
        if o.fusion == "blend":
            factor = o.unet_floor + (1 - o.unet_floor) * probability
            return [resize(level, size) * factor for level in maps]
        scaled = [resize(m / self.quantile[k], size).clamp_min(_EPS) for k, m in enumerate(maps)]
        mean = torch.stack(scaled).log().mean(0).exp()
        return [mean * probability.clamp_min(o.product_floor)]

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the images and their inverses; the graph has no data-dependent choices."""
        return np.concatenate([images, 255 - images])
