"""The memory bank as a part of the exported graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.memory_bank.coreset import MAX_CANDIDATES, greedy_coreset, half_lloyd, penalties
from training.memory_bank.search import cell_centres, half_squared_distance, nearest, normalise, offsets
from training.taps import Tap

# Enough to compare energy floors with each other.
SEARCH_CANDIDATES, SEARCH_PROTOTYPES = 20_000, 2048
PLACE_CHANNELS = 2


@dataclass(frozen=True)
class BankVariant:
    """How distances are measured and prototypes are chosen.

    Attributes:
        energy_floor: In units of the mean energy of the collected cells, see `training.maps.cosine_distance`.
        place_weight: >= 0; the distance of a cell to a prototype increases by this weight times the squared distance of
            their positions, in sides of the image. 0 for parts that are not aligned.
        half_lloyd: Whether the prototypes are moved half-way to the mean of their cells, see `coreset.half_lloyd`.
        supported: Share of the prototypes without a penalty, in [0, 1], see `coreset.penalties`; 1: no penalties.
    """

    energy_floor: float = 0.0
    place_weight: float = 0.0
    half_lloyd: bool = False
    supported: float = 1.0


class MemoryBank(nn.Module):
    """Distance of each coarse cell of a feature pyramid to the nearest prototype of a normal cell.

    A cell is described by its coarse features and the mean of the fine features that it covers, and for aligned parts
    also by its position. Source: after PatchCore (Roth et al., CVPR 2022); the position and its use as the *query* of
    N-Net (docs/methods.md, section *N-Net*) are our own.

    Attributes:
        prototypes: float32 `[P, C_1 + C_2 + 3]`: features, energy floor and position in one vector, see `lift`.
        origins: int64 `[P, 3]`: the training cell that each prototype is or, if it was moved, the nearest one to it:
            index of the image in the order given to `collect`, row and column on the coarse grid.
        nearest: Whether the nearest prototype has the highest or the lowest value in the output of `candidates`.
        candidates: Its output has a value for each cell and prototype, float32 `[N * H * W, P]`.

    Args:
        channels: Channels of the two levels, finest first.
        count: Number of prototypes.
    """

    prototypes: Tensor
    bias: Tensor
    scale: Tensor
    origins: Tensor
    nearest: ClassVar[Literal["highest", "lowest"]] = "highest"

    def __init__(self, channels: Sequence[int], count: int) -> None:
        super().__init__()
        self.variant = BankVariant()
        self.candidates = Tap()
        lifted = sum(channels) + 1 + PLACE_CHANNELS
        # Not part of a checkpoint: they are chosen after the last training step.
        self.register_buffer("prototypes", torch.zeros(count, lifted), persistent=False)
        self.register_buffer("bias", torch.zeros(count), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.register_buffer("origins", torch.zeros(count, 3, dtype=torch.int64), persistent=False)
        self._cells, self._places = torch.zeros(0), torch.zeros(0)
        self._cell_origins = torch.zeros(0, 3, dtype=torch.int64)

    @staticmethod
    def descriptors(features: Sequence[Tensor]) -> Tensor:
        """Compute the descriptors of all cells.

        Args:
            features: float `[N, C_1, 2H, 2W]` and `[N, C_2, H, W]`; or descriptors alone, which are returned.

        Returns:
            float32 `[N, C_1 + C_2, H, W]`.
        """
        if len(features) == 1:
            return features[0].float()
        fine, coarse = features
        return torch.cat([F.avg_pool2d(fine.float(), 2), coarse.float()], 1)

    def lift(self, cells: Tensor, places: Tensor, variant: BankVariant) -> Tensor:
        """Append energy floor and position, so that half a squared Euclidean distance is the distance of the bank.

        Args:
            cells: Descriptors times `scale`, float32 `[K, C]`.
            places: Positions, float32 `[K, 2]` in sides of the image, see `search.cell_centres`.
            variant: Energy floor and weight of the position.

        Returns:
            float32 `[K, C + 3]`.
        """
        position = places * (2 * variant.place_weight) ** 0.5
        return torch.cat([normalise(cells, variant.energy_floor), position], 1)

    def collect(self, pyramids: Iterable[Sequence[Tensor]], images: int) -> None:
        """Collect the cells of normal images from which prototypes are selected.

        Args:
            pyramids: Feature pyramids of consecutive groups of images, two levels `[n, C_k, H_k, W_k]` each, so that
                not all features need to be in memory at once.
            images: Number of images in all groups. If they have more than `MAX_CANDIDATES` cells together, the same
                number of cells is drawn from each image.
        """
        generator, kept, origins = torch.Generator().manual_seed(0), list[Tensor](), list[Tensor]()
        width, height = 1, 1
        for pyramid in pyramids:
            grid = self.descriptors(pyramid).permute(0, 2, 3, 1)
            height, width = grid.shape[1], grid.shape[2]
            each = min(height * width, math.ceil(MAX_CANDIDATES / images))
            for image in grid.flatten(1, 2):
                drawn = torch.randperm(len(image), generator=generator)[:each]
                number = torch.full_like(drawn, len(kept))
                origins.append(torch.stack([number, drawn // width, drawn % width], 1))
                kept.append(image[drawn])
        collected = torch.cat(kept)
        self.scale.copy_(collected.square().sum(1).mean().clamp_min(1e-20).rsqrt())
        self._cells = collected * self.scale
        self._cell_origins = torch.cat(origins)
        self._places = cell_centres(height, width)[self._cell_origins[:, 1] * width + self._cell_origins[:, 2]]

    def collected(self, variant: BankVariant) -> tuple[Tensor, Tensor]:
        """Return the collected cells, lifted, float32 `[K, C + 3]`, and their origins, int64 `[K, 3]`."""
        return self.lift(self._cells, self._places, variant), self._cell_origins

    def select(self, variant: BankVariant, candidates: int = MAX_CANDIDATES, count: int | None = None) -> None:
        """Select the prototypes from the collected cells.

        Args:
            variant: How distances are measured and prototypes are chosen.
            candidates: Largest number of cells to select from; fewer are faster and less accurate.
            count: Number of prototypes to select, at most those of the bank; all of them by default. The others are
                copies, so that the graph keeps its shape.
        """
        self.variant = variant
        generator = torch.Generator().manual_seed(0)
        cells, _ = self.collected(variant)
        wanted = min(count or len(self.prototypes), len(self.prototypes))
        chosen = greedy_coreset(cells, wanted, generator, candidates)
        selected = cells[chosen]
        penalty = penalties(cells, self._cell_origins[:, 0], chosen, variant.supported)
        if variant.half_lloyd:
            selected = half_lloyd(selected, cells, generator)
            _, chosen = nearest(selected, cells)
        # With fewer cells than prototypes the last one is repeated, so that the graph keeps its shape.
        repeated = torch.arange(len(self.prototypes)).clamp_max(len(selected) - 1)
        self.prototypes.copy_(selected[repeated])
        self.bias.copy_((offsets(selected) - penalty)[repeated])
        self.origins.copy_(self._cell_origins[chosen[repeated]])

    def release(self) -> None:
        """Free the collected cells; the prototypes stay."""
        self._cells, self._places = torch.zeros(0), torch.zeros(0)
        self._cell_origins = torch.zeros(0, 3, dtype=torch.int64)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the distance of each cell to its nearest prototype.

        Args:
            features: float `[N, C_1, 2H, 2W]` and `[N, C_2, H, W]`.

        Returns:
            float32 `[N, 1, H, W]`, >= 0; at most 2 plus position and penalty.
        """
        count, _, height, width = features[-1].shape
        queries = self.queries(features, self.variant)
        candidates = self.candidates(torch.addmm(self.bias, queries, self.prototypes.T))
        return half_squared_distance(queries, candidates).view(count, 1, height, width)

    def queries(self, features: Sequence[Tensor], variant: BankVariant) -> Tensor:
        """Lift the cells of images.

        Args:
            features: float `[N, C_1, 2H, 2W]` and `[N, C_2, H, W]`.
            variant: Energy floor and weight of the position.

        Returns:
            float32 `[N * H * W, C_1 + C_2 + 3]`, image by image, row by row.
        """
        cells = self.descriptors(features) * self.scale
        count, channels, height, width = cells.shape
        places = cell_centres(height, width).expand(count, -1, -1).reshape(-1, PLACE_CHANNELS)
        return self.lift(cells.permute(0, 2, 3, 1).reshape(-1, channels), places, variant)
