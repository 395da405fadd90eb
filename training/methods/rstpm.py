"""RSTPM: two student-teacher pairs and a discriminative network on their maps (Yamada, Kamiya, Hotta 2022).

The first student sees the image and predicts the first teacher's features. The second rebuilds the second teacher's
features from the first teacher's coarsest ones, and gates from the second teacher tell it which places matter. The two
pairs' distance maps are summed level by level; a U-Net, trained on painted defects, learns from the sums alone what
is a defect and what is a habit of the students.

Sources: [P] the abstract, [F] the paper's figures, [R] STFPM and DRAEM, on which it builds; the section numbers of
the design notes in brackets; "our own" is marked. What was tried and measured is in docs/benchmarks.md.
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
from training.losses import flat_loss, focal_loss, hard_mined_loss, point_loss, ramp
from training.maps import Gaussian, LevelFusion, PyramidDistance, cosine_distance, resize
from training.methods.base import Batch, Method, parse_options
from training.pixels import in_chunks, to_pixels
from training.teachers import Teacher

_EPS = 1e-6


@dataclass(frozen=True)
class RstpmOptions:
    """RSTPM's own knobs; the defaults are what ships."""

    width: int = 32  # both students' channels at stride 4, doubled with every level; our own, for processors
    unet_width: int = 16  # the U-Net's finest channels; our own
    loss: Literal["mined", "flat", "point"] = "mined"  # L_st: L_hm, L_flat or the paper's L_pt (3.3, 3.6)
    hard_share: float = 0.9  # places that hard mining counts as easy, after the ramp; [R] Dinomaly
    hard_ramp_steps: int = 200
    seen_floor: float = 0.05  # smallest distance of the first teacher that makes a painted place a defect; our own
    fusion: Literal["blend", "product"] = "blend"  # "product": the paper's way, [F] caption of figure 6
    unet_floor: float = 0.9  # share of the blend that the U-Net cannot take away; our own
    product_floor: float = 0.05  # the same of the product; our own (3.5)
    level_weights: tuple[float, ...] = (0.5, 1.0, 1.0)  # of the blend, finest first; our own
    energy_floor: float = 0.5  # of the map's distances, see `training.maps.cosine_distance`; our own
    sigma: float = 1.0  # of the map's smoothing, in cells of 4 pixels; [R] STFPM's 4 pixels


class ImageStudent(nn.Module):
    """Student 1: image float32 `[N, 3, H, W]` -> `[N, C_k, H / s_k, W / s_k]` per level.

    The paper distils a ResNet-18 [F]; this one has a block a level, for processors, and is as random at first. Our own.
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
        x = self.stem(pixels * 4 - 2)
        features = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            features.append(head(x))
        return features


class Gate(nn.Sequential):
    """Attention of a teacher's features on the student's, `[N, C, H, W]` -> `[N, 1, H, W]` in (0, 1).

    Source: [F] figure 4. One channel: with one for each of the student's, the tested image's own features, defect
    and all, would pass through the gate into what is compared with them (3.2).
    """

    def __init__(self, channels: int) -> None:
        hidden = max(8, channels // 4)
        super().__init__(ConvBNReLU(channels, hidden), nn.Conv2d(hidden, 1, 1), nn.Sigmoid())


class GatedDecoder(nn.Module):
    """Student 2: teacher 1's coarsest features and teacher 2's pyramid -> teacher 2's pyramid, rebuilt.

    The paper decodes what the first teacher's fourth stage gives [F]. Our teachers end at stride 16, so a trained
    bottleneck squeezes that level to stride 32; our own.
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

    def forward(self, code: Tensor, looked_at: Sequence[Tensor]) -> list[Tensor]:
        x = self.squeeze(code)
        rebuilt: list[Tensor] = []
        for level in reversed(range(len(self.heads))):
            x = self.stages[level](x) * self.gates[level](looked_at[level])
            rebuilt.insert(0, self.heads[level](x))
        return rebuilt


class PairSum(nn.Module):
    """Sums two pairs' maps level by level, each in units of its spread on good images.

    Source: [F] (O1+O6), (O2+O5), (O3+O4); the units are our own: raw, the louder pair would be the sum.
    """

    spread: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(2, levels))

    def measure(self, pairs: Sequence[Sequence[Tensor]], weight: float = 1.0) -> None:
        """Moves the spreads by `weight` towards those of two pyramids of good images' maps."""
        now = torch.stack([torch.stack([level.std().clamp_min(_EPS) for level in maps]) for maps in pairs])
        self.spread.lerp_(now, weight)

    def forward(self, pairs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Twice `[N, 1, H_k, W_k]` per level -> once."""
        first, second = pairs
        return [
            a / self.spread[0, k] + b / self.spread[1, k] for k, (a, b) in enumerate(zip(first, second, strict=True))
        ]


class TwoStudents(Method):
    """See the module's docstring."""

    name: ClassVar[str] = "rstpm"
    map_stride: ClassVar[int] = 4
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite0", "efficientnet_lite1")
    recommended: ClassVar[Mapping[str, Any]] = {"iterations": 900, "batch_size": 8, "pseudo_pool": 300, "lr": 2e-3}
    stages: ClassVar[tuple[float, ...]] = (0.75, 1.0)

    quantile: Tensor

    def __init__(self, teachers: Sequence[Teacher], options: RstpmOptions) -> None:
        super().__init__()
        self.options = options
        first, second = teachers
        self.teacher1, self.teacher2 = first, second
        self.levels = len(first.channels)
        self.scaler1, self.scaler2 = PyramidScaler(first.channels), PyramidScaler(second.channels)
        self.student1 = ImageStudent(first.channels, options.width)
        self.student2 = GatedDecoder(first.channels[-1], second.channels, options.width)
        self.distance1 = PyramidDistance(self.levels, options.energy_floor)
        self.distance2 = PyramidDistance(self.levels, options.energy_floor)
        self.pair_sum = PairSum(self.levels)
        self.unet = UNet(self.levels, options.unet_width)
        self.fusion = LevelFusion(options.level_weights)
        self.register_buffer("quantile", torch.ones(self.levels))
        self.smooth = Gaussian(options.sigma)

    @classmethod
    def build(cls, teachers: Sequence[Teacher], options: Mapping[str, Any]) -> Self:
        return cls(teachers, parse_options(RstpmOptions, options))

    @property
    def teachers(self) -> list[str]:
        return [self.teacher1.name, self.teacher2.name]

    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        """Both teachers' pyramids, one behind the other."""
        return [*self.teacher1(pixels), *self.teacher2(pixels)]

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        first, second = frozen[: self.levels], frozen[self.levels :]
        self.scaler1.measure(first)
        self.scaler2.measure(second)
        self.distance1.measure(first)
        self.distance2.measure(second)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        if batch.progress < self.stages[0]:
            return self._distil(batch)
        # Stage B: the students are as they will ship, their BatchNorm included.
        self.student1.eval()
        self.student2.eval()
        return self._discriminate(batch)

    def _distil(self, batch: Batch) -> dict[str, Tensor]:
        """Stage A, on good images alone. Source: [P] "STPM does not use anomaly images for training"."""
        o = self.options
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "mined": partial(hard_mined_loss, easy_fraction=ramp(batch.step, o.hard_ramp_steps, o.hard_share)),
            "flat": flat_loss,
            "point": point_loss,
        }
        students = self.students(batch.clean, batch.frozen)
        terms = [losses[o.loss](t, s) for t, s in zip(batch.frozen, students, strict=True)]
        first, second = torch.stack(terms[: self.levels]).sum(), torch.stack(terms[self.levels :]).sum()
        return {"loss": first + second, "distil": first, "rebuild": second}

    def _discriminate(self, batch: Batch) -> dict[str, Tensor]:
        """Stage B, on good and on painted images; the students stand still ([R] DeSTSeg)."""
        with torch.no_grad():
            clean = self.distances(batch.clean, batch.frozen)
            # A running mean over the stage; its first batch sets it.
            done = batch.step - math.ceil(self.stages[0] * batch.steps)
            self.pair_sum.measure(clean, 1 / (1 + done))
            maps = self.pair_sum(clean)
            target = torch.zeros_like(maps[0])
            if len(batch.pseudo):
                painted = self.pair_sum(self.distances(batch.pseudo, batch.pseudo_frozen))
                maps = [torch.cat(pair) for pair in zip(maps, painted, strict=True)]
                target = torch.cat([target, self._seen(batch)])
        focal = focal_loss(self._logits(maps), target)
        return {"loss": focal, "focal": focal}

    def _seen(self, batch: Batch) -> Tensor:
        """The mask on the maps' grid, cut to where the first teacher sees a difference at all: a paste that looks
        like the part itself is no defect (5.7d)."""
        pairs = zip(batch.pseudo_frozen[: self.levels], batch.origin_frozen[: self.levels], strict=True)
        size = (batch.pseudo_frozen[0].shape[-2], batch.pseudo_frozen[0].shape[-1])
        distance = torch.stack([resize(cosine_distance(a, b), size) for a, b in pairs]).mean(0)
        return nn.functional.adaptive_max_pool2d(batch.mask, size) * (distance > self.options.seen_floor)

    def students(self, pixels: Tensor, frozen: Sequence[Tensor]) -> list[Tensor]:
        """What the students say to `frozen_features`, in the same order and shapes."""
        code = self.scaler1(frozen[: self.levels])[-1]
        predicted = self.student1(pixels.contiguous(memory_format=torch.channels_last))
        rebuilt = self.student2(code, self.scaler2(frozen[self.levels :]))
        return [*self.scaler1.undo(predicted), *self.scaler2.undo(rebuilt)]

    def distances(self, pixels: Tensor, frozen: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Both pairs' distance maps, per level float32 `[N, 1, H_k, W_k]`."""
        students, n = self.students(pixels, frozen), self.levels
        return self.distance1(frozen[:n], students[:n]), self.distance2(frozen[n:], students[n:])

    def _logits(self, maps: Sequence[Tensor]) -> Tensor:
        """The U-Net on the logarithms of the sums, which tame a defect's hundredfold distances; our own."""
        size = (maps[0].shape[-2], maps[0].shape[-1])
        logits: Tensor = self.unet(torch.cat([resize(m, size) for m in maps], 1).log1p())
        return logits.float()

    @torch.no_grad()
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        chunks = [self.distances(pixels, self.frozen_features(pixels)) for pixels in in_chunks(reference)]
        pairs = [[torch.cat(level) for level in zip(*(c[i] for c in chunks), strict=True)] for i in (0, 1)]
        self.pair_sum.measure(pairs)
        maps = self.pair_sum(pairs)
        self.fusion.calibrate(maps)
        self.quantile.copy_(torch.tensor([float(np.quantile(m.numpy(), 0.995)) for m in maps]).clamp_min(_EPS))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = to_pixels(image)
        maps = self.pair_sum(self.distances(pixels, self.frozen_features(pixels)))
        return self.smooth(self.fuse(maps, self._logits(maps).sigmoid()))[:, 0], None

    def fuse(self, maps: Sequence[Tensor], probability: Tensor) -> Tensor:
        """One map `[N, 1, H, W]` from the summed maps and the U-Net's probability, `[N, 1, H, W]`.

        "product" is the paper's: all levels and the U-Net must agree (3.5). "blend" adds the levels, so that a defect
        which one of them sees is kept, and the U-Net can take away no more than its share (3.6).
        """
        o = self.options
        if o.fusion == "blend":
            fused: Tensor = self.fusion(maps)
            return fused * (o.unet_floor + (1 - o.unet_floor) * probability)
        size = (maps[0].shape[-2], maps[0].shape[-1])
        scaled = [resize(m / self.quantile[k], size).clamp_min(_EPS) for k, m in enumerate(maps)]
        mean = torch.stack(scaled).log().mean(0).exp()
        return mean * probability.clamp_min(o.product_floor)

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.concatenate([images, 255 - images])
