"""What the four methods share: two scales of the image, memory banks, selection of the energy floor and fusion.

The trained part of a method works on a reduced copy of the image, where the receptive field of a cell covers enough
context to detect a wrong pattern. Two memory banks compare the cells of the copy and of the image with normal ones, see
`training.memory_bank.scales`. All maps are fused into one. The scales and the banks are our own and in none of the four
papers; docs/methods.md, section *Two scales*, has the details, and docs/benchmarks.md what each part contributes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.bundle.manifest import Selected
from training.energy_floor import SYNTHETIC_IMAGES, HasEnergyFloor, select_energy_floor
from training.maps import Gaussian, LevelFusion, resize
from training.memory_bank import BANKS, MAX_CANDIDATES, ScaledBanks
from training.methods.base import Method
from training.parallel import in_parallel
from training.pixels import map_chunks, to_pixels

CHUNK_IMAGES = 8  # images whose features are computed at once
NEIGHBOUR_IMAGES = 24  # good images whose nearest training cells choose the variant of the memory banks


@dataclass(frozen=True)
class Observed:
    """Images and their frozen features.

    Attributes:
        pixels: float32 `[N, 3, H, W]`, RGB in [0, 1].
        frozen: The result of `TwoScaleMethod.frozen_features`.
        full: The result of `TwoScaleMethod.full_features`; empty without memory banks.
    """

    pixels: Tensor
    frozen: Sequence[Tensor]
    full: Sequence[Tensor]


@dataclass(frozen=True)
class ScaleOptions:
    """Options of all methods; our own."""

    reduction: float = 2 / 3
    """Side of the reduced copy relative to the image's, in (0, 1]; rounded to a multiple of 32 pixels."""
    prototypes: int = 4096
    """Prototypes of each memory bank."""
    candidates: int = MAX_CANDIDATES
    """Largest number of training cells from which the prototypes of a bank are selected."""
    place_weight: float = 1.0
    """Weight of a cell's position in the memory banks of aligned parts, see `training.memory_bank.variant`; 0: none."""
    supported: float = 1.0
    """Share of the prototypes without a penalty for being unlike every other image, in [0, 1]; 1: no penalties. 0.9 is
    for good images among which defects may be left; on clean ones it cost up to 0.35 points (docs/benchmarks.md)."""
    floor_images: int = SYNTHETIC_IMAGES
    """Approximate number of images with synthetic anomalies on which the energy floors are compared."""


@dataclass(frozen=True)
class BankOptions(ScaleOptions):
    """Options of methods whose papers have no query; our own."""

    banks: bool = True
    """Add the memory banks to the map."""
    bank_weights: tuple[float, float] = (9.0, 9.0)
    """Ensemble weights of the memory banks of the reduced copy and of the image."""

    def with_banks(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Add the banks' ensemble weights, by the names of their maps, to those of the method's own maps."""
        return {**weights, **dict(zip(BANKS, self.bank_weights, strict=True))} if self.banks else dict(weights)


class TwoScaleMethod(Method):
    """A method whose map is the sum of its own maps of the reduced copy and the maps of two memory banks.

    Args:
        options: Scales and banks.
        channels: Channels of the two levels that the banks compare, finest first; None: no banks.
        weights: Ensemble weights of the maps by name; those of the banks are the last two.
        energy_floors: Energy floors to select from, ascending, see `training.energy_floor`.
        sigma: Standard deviation of the map's smoothing, in cells.
    """

    def __init__(
        self,
        options: ScaleOptions,
        channels: Sequence[int] | None,
        weights: Mapping[str, float],
        energy_floors: Sequence[float],
        sigma: float,
    ) -> None:
        super().__init__()
        self.reduction, self.energy_floors = options.reduction, energy_floors
        self.banks = (
            None
            if channels is None
            else ScaledBanks(channels, options.prototypes, options.candidates, options.place_weight, options.supported)
        )
        self.floor_images = options.floor_images
        self.fusion = LevelFusion(list(weights.values()), list(weights))
        self.smooth = Gaussian(sigma)

    @abstractmethod
    def features(self, pixels: Tensor) -> list[Tensor]:
        """Compute the frozen features that the trained part needs, and with them those of the banks.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1], the reduced copy.

        Returns:
            Tensors with first axis N.
        """

    @abstractmethod
    def compared(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the two levels of the result of `features` that the banks compare, finest first."""

    @abstractmethod
    def full_features(self, pixels: Tensor) -> Sequence[Tensor]:
        """Compute the same two levels for images at full resolution, float32 `[N, 3, H, W]`, RGB in [0, 1]."""

    @abstractmethod
    def own_maps(self, pixels: Tensor, frozen: Sequence[Tensor]) -> list[Tensor]:
        """Compute the distance maps of the trained part.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1].
            frozen: The result of `frozen_features` for them.

        Returns:
            float32 `[N, 1, h_k, w_k]`, >= 0, each; none without a trained part.
        """

    @property
    @abstractmethod
    def floored(self) -> Sequence[HasEnergyFloor]:
        """Return the distances of the trained part whose energy floor is selected."""

    def gain(self, maps: Sequence[Tensor]) -> Tensor | None:
        """Return the factor on the image score, float32 `[N]`, from the result of `sources`; None: there is none."""
        del maps
        return None

    def reduced(self, pixels: Tensor) -> Tensor:
        """Return the reduced copy of images, float32 `[N, 3, h, w]`, sides in multiples of 32."""
        height, width = (32 * max(1, round(side * self.reduction / 32)) for side in pixels.shape[-2:])
        return resize(pixels, (height, width))

    def frozen_features(self, pixels: Tensor) -> list[Tensor]:
        """Compute the frozen features of the reduced copy, see `features`."""
        return self.features(self.reduced(pixels))

    @torch.no_grad()
    def consolidate(self, images: NDArray[np.uint8], frozen: Sequence[Tensor]) -> None:
        """Collect the cells of the training images for the memory banks."""
        if self.banks is None:
            return
        groups = zip(*(torch.split(level, 64) for level in self.compared(frozen)), strict=True)
        self.banks.collect(groups, map_chunks(self.full_features, images), len(images))

    @torch.no_grad()
    def calibrate(self, reference: NDArray[np.uint8]) -> None:
        """Select the energy floor and the variant and prototypes of the memory banks, and measure each map's spread."""
        banks = [] if self.banks is None else [self.banks]
        known = self._observe(reference)

        def measure_spread() -> None:
            chunks = in_parallel(self._maps, known)
            self.fusion.calibrate([torch.cat(source) for source in zip(*chunks, strict=True)])

        def measure() -> None:
            for bank in banks:
                bank.search()
            measure_spread()

        def map_source(images: NDArray[np.uint8]) -> Callable[[], Iterator[Tensor]]:
            chunks = known if images is reference else self._observe(images)
            return lambda: in_parallel(lambda chunk: self._fuse(self._maps(chunk), chunk.pixels.shape[-2:]), chunks)

        measured = [*self.floored, *banks]
        if not measured:
            measure_spread()
            return
        floor = select_energy_floor(measured, measure, map_source, reference, self.energy_floors, self.floor_images)
        self.selected = Selected(energy_floor=floor)
        if self.banks is not None:
            chosen = np.unique(np.linspace(0, len(reference) - 1, NEIGHBOUR_IMAGES).astype(int))
            sample = self._observe(reference[chosen])
            choice = self.banks.settle(
                (self.compared(chunk.frozen) for chunk in sample), (chunk.full for chunk in sample)
            )
            measure_spread()
            self.selected = Selected(energy_floor=floor, memory_bank=choice)

    def _observe(self, images: NDArray[np.uint8]) -> list[Observed]:
        """Compute the frozen features of images in chunks: they depend on nothing that is selected."""
        return list(map_chunks(self._observed, images, CHUNK_IMAGES))

    def _observed(self, pixels: Tensor) -> Observed:
        full = () if self.banks is None else self.full_features(pixels)
        return Observed(pixels, self.frozen_features(pixels), full)

    def _maps(self, seen: Observed) -> list[Tensor]:
        """Return the result of `sources`."""
        maps = self.own_maps(seen.pixels, seen.frozen)
        return maps if self.banks is None else [*maps, *self.banks(self.compared(seen.frozen), seen.full)]

    def sources(self, pixels: Tensor) -> list[Tensor]:
        """Compute the maps that are fused into the anomaly map.

        Args:
            pixels: float32 `[N, 3, H, W]`, RGB in [0, 1].

        Returns:
            float32 `[N, 1, h_k, w_k]` each, >= 0: those of the trained part, then the memory bank of the reduced copy
            and that of the image.
        """
        return self._maps(self._observed(pixels))

    def _fuse(self, maps: Sequence[Tensor], sides: Sequence[int]) -> Tensor:
        size = (sides[0] // self.map_stride, sides[1] // self.map_stride)
        smoothed: Tensor = self.smooth(self.fusion(maps, size))
        return smoothed

    def fused(self, pixels: Tensor) -> Tensor:
        """Compute the anomaly map of float32 `[N, 3, H, W]` in [0, 1]: float32 `[N, 1, H / s, W / s]`, >= 0."""
        return self._fuse(self.sources(pixels), pixels.shape[-2:])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the anomaly map, float32 `[N, H / s, W / s]` with s = `map_stride`, and the factor on the score."""
        pixels = to_pixels(image)
        maps = self.sources(pixels)
        return self._fuse(maps, pixels.shape[-2:])[:, 0], self.gain(maps)
