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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from service.bundle.manifest import MemoryBankChoice, Selected
from training.blocks import BasicBlock, BottleneckBlock, ConvBNReLU, PyramidScaler, UpBlock, initialise
from training.energy_floor import SYNTHETIC_IMAGES, select_energy_floor
from training.errors import InvalidFitConfig
from training.losses import flat_loss, hard_mined_loss, over_levels, ramp
from training.maps import Gaussian, LevelFusion, PyramidDistance, cosine_distance, resize
from training.memory_bank import (
    MAX_CANDIDATES,
    SEARCH_CANDIDATES,
    SEARCH_PROTOTYPES,
    BankVariant,
    MemoryBank,
    measure_neighbours,
)
from training.methods.base import Batch, Method, parse_options
from training.parallel import in_parallel
from training.pixels import map_chunks, to_pixels
from training.teachers import Teacher

Scales = tuple[list[Tensor], list[Tensor]]  # the teacher's features of the reduced copies and of the images
CHUNK_IMAGES = 8  # images whose features are computed at once
NEIGHBOUR_IMAGES = 24  # good images whose nearest training cells choose the variant of the memory banks
SOURCES = ("reverse_8", "reverse_16", "forward_8", "forward_16", "query_reduced", "query_full")
"""Names of the maps that are fused, as in `NNetOptions.ensemble_weights`; those of the queries are their attributes."""


@dataclass(frozen=True)
class NNetOptions:
    """Options of N-Net, with their defaults; all are our own unless a source is given."""

    levels: tuple[int, int] = (1, 2)
    """Levels of the teacher's pyramid, from 0: those at strides 8 and 16."""
    width: float = 4.5
    """Finest width of the branches, width * sqrt(coarsest teacher channels), to a multiple of 8."""
    reduction: float = 2 / 3
    """Side of the reduced copy relative to the image's, in (0, 1]; rounded to a multiple of 32 pixels."""
    prototypes: int = 4096
    """Prototypes of each memory bank."""
    candidates: int = MAX_CANDIDATES
    """Largest number of training cells from which the prototypes of a bank are selected."""
    branches: bool = True
    """Train and use the reverse and the forward branch. Without them, the map comes from the memory banks alone."""
    place_weight: float = 1.0
    """Weight of a cell's position in the memory banks of aligned parts, see `training.memory_bank.variant`; 0: none."""
    supported: float = 1.0
    """Share of the prototypes without a penalty for being unlike every other image, in [0, 1]; 1: no penalties. 0.9 is
    for good images among which defects may be left; on clean ones it cost up to 0.35 points (docs/benchmarks.md)."""
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
    floor_images: int = SYNTHETIC_IMAGES
    """Approximate number of images with synthetic anomalies on which the energy floors are compared."""
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


class NNet(Method):
    """N-Net, see the module's docstring. Source: the idea is Li et al. 2025, every layer our own.

    Args:
        teacher: The frozen teacher.
        options: The options.
    """

    name: ClassVar[str] = "nnet"
    map_stride: ClassVar[int] = 8
    default_teachers: ClassVar[tuple[str, ...]] = ("efficientnet_lite2",)  # more accurate than lite0 on fine surfaces
    recommended: ClassVar[Mapping[str, Any]] = {"iterations": 800, "input_size": 384}
    quick: ClassVar[Mapping[str, Any]] = {
        "branches": False,
        "prototypes": 2048,
        "candidates": 40_000,
        "floor_images": 32,
    }

    def __init__(self, teacher: Teacher, options: NNetOptions) -> None:
        super().__init__()
        self.options = options
        self.teacher = teacher
        channels = [teacher.channels[level] for level in options.levels]
        self.scaler = PyramidScaler(channels)
        self.adapters = nn.ModuleList([Adapter(count) if options.adapt else nn.Identity() for count in channels])
        self.branches = Branches(channels, options.width) if options.branches else None
        self.query_reduced, self.query_full = (MemoryBank(channels, options.prototypes) for _ in range(2))
        self.distance = PyramidDistance(len(channels), options.energy_floors[0])
        used = slice(None) if options.branches else slice(-2, None)
        self.fusion = LevelFusion(options.ensemble_weights[used], SOURCES[used])
        self.smooth = Gaussian(options.sigma)

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

    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        """Compute the teacher's features of the reduced copy, two levels."""
        height, width = (32 * max(1, round(side * self.options.reduction / 32)) for side in pixels.shape[-2:])
        return self.levels(resize(pixels, (height, width)))

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """Compute the teacher's features at strides 8 and 16: float32 `[N, C_k, H / s_k, W / s_k]`."""
        pyramid = self.teacher(pixels)
        return [pyramid[level] for level in self.options.levels]

    def prepare(self, frozen: Sequence[Tensor]) -> None:
        """Measure the channels' statistics and the levels' energies."""
        self.scaler.measure(frozen)
        self.distance.measure(frozen)

    @torch.no_grad()
    def consolidate(self, images: NDArray[np.uint8], frozen: Sequence[Tensor]) -> None:
        """Collect the cells of the training images for both memory banks."""
        self.query_reduced.collect(zip(*(torch.split(level, 64) for level in frozen), strict=True), len(images))
        self.query_full.collect(map_chunks(self.levels, images), len(images))

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

    @torch.no_grad()
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        """Select the energy floor and the variant and prototypes of the memory banks, and measure each map's spread."""
        o, queries, known = self.options, (self.query_reduced, self.query_full), self._scales(reference)

        def measure_spread() -> None:
            chunks = in_parallel(lambda scales: self._distances(*scales), known)
            self.fusion.calibrate([torch.cat(source) for source in zip(*chunks, strict=True)])

        def select(variants: Sequence[BankVariant], candidates: int, count: int | None = None) -> None:
            pairs = zip(queries, variants, strict=True)
            list(in_parallel(lambda pair: pair[0].select(pair[1], candidates, count), pairs))

        def measure() -> None:
            select([BankVariant(self.distance.energy_floor)] * 2, SEARCH_CANDIDATES, SEARCH_PROTOTYPES)
            measure_spread()

        def map_source(images: NDArray[np.uint8]) -> Callable[[], Iterator[Tensor]]:
            chunks = known if images is reference else self._scales(images)
            size = (images.shape[1] // self.map_stride, images.shape[2] // self.map_stride)
            return lambda: in_parallel(lambda s: self.smooth(self.fusion(self._distances(*s), size)), chunks)

        floor = select_energy_floor([self.distance], measure, map_source, reference, o.energy_floors, o.floor_images)
        variants, self.selected = self._choose_variants(known, floor)
        select(variants, o.candidates)
        for query in queries:
            query.release()
        measure_spread()

    def _choose_variants(self, known: Sequence[Scales], floor: float) -> tuple[list[BankVariant], Selected]:
        """Choose the variant of each memory bank by the features of reference images, see `memory_bank.variant`."""
        names, weight = ("query_reduced", "query_full"), self.options.place_weight
        count = sum(len(reduced[0]) for reduced, _ in known)
        sample = torch.from_numpy(np.unique(np.linspace(0, count - 1, NEIGHBOUR_IMAGES).astype(int)))
        found = []
        for query, pyramids in zip((self.query_reduced, self.query_full), zip(*known, strict=True), strict=True):
            levels = [torch.cat(level)[sample] for level in zip(*pyramids, strict=True)]
            chunks = zip(*(torch.split(level, CHUNK_IMAGES) for level in levels), strict=True)
            found.append(measure_neighbours(query, chunks, floor))
        reduced, full = found
        # The coarse grid of the reduced copy decides for both banks: on it, a shift of a few pixels is no other place.
        supported = self.options.supported
        variants = [bank.variant(floor, weight, decisive=reduced, supported=supported) for bank in (reduced, full)]
        choice = MemoryBankChoice(
            aligned=reduced.aligned,
            half_lloyd=variants[0].half_lloyd,
            place_weight=weight,
            prototypes=self.options.prototypes,
            same_place=reduced.same_place,
            near_place=reduced.near_place,
            mean_distances=dict(zip(names, (reduced.mean_distance, full.mean_distance), strict=True)),
        )
        return variants, Selected(energy_floor=floor, memory_bank=choice)

    def _scales(self, images: NDArray[np.uint8]) -> list[Scales]:
        """Compute the teacher's features of images at both scales, in chunks: they depend on nothing that is chosen."""
        return list(map_chunks(lambda p: (self.frozen_features(p), self.levels(p)), images, CHUNK_IMAGES))

    def sources(self, pixels: Tensor) -> list[Tensor]:
        """Compute the distance maps that are fused into the anomaly map.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1].

        Returns:
            Six maps, float32 `[N, 1, h_k, w_k]` in [0, 2]: reverse branch and forward branch (each finest level
            first), query of the reduced copy, query of the image. The last two only, if there are no branches.
        """
        return self._distances(self.frozen_features(pixels), self.levels(pixels))

    def _distances(self, features: Sequence[Tensor], full: Sequence[Tensor]) -> list[Tensor]:
        """Return the result of `sources` for the teacher's features of the reduced copy and of the image."""
        queries = [self.query_reduced(features), self.query_full(full)]
        if self.branches is None:
            return queries
        standard = self.adapt(self.scaler(features))
        adaptive = self.scaler.undo(standard)
        reverse, forward = (self.scaler.undo(branch) for branch in self.branches(standard))
        return [*self.distance(adaptive, reverse), *self.distance(adaptive, forward), *queries]

    def fused(self, pixels: Tensor) -> Tensor:
        """Compute the anomaly map of float32 `[N, 3, H, W]` in [0, 1]: float32 `[N, 1, H / 8, W / 8]`, >= 0."""
        size = (pixels.shape[-2] // self.map_stride, pixels.shape[-1] // self.map_stride)
        smoothed: Tensor = self.smooth(self.fusion(self.sources(pixels), size))
        return smoothed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the anomaly map, float32 `[N, H / 8, W / 8]`; there is no factor on the score."""
        return self.fused(to_pixels(image))[:, 0], None

    def branch_flipping_inputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return four images, their inverses, flipped copies and a plain image, whose nearest prototypes differ."""
        images = images[:4]
        return np.concatenate([images, 255 - images, images[:, ::-1], np.full_like(images[:1], 90)])
