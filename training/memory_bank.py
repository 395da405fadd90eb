"""A memory bank of normal features: a coreset of prototypes, searched for the nearest one.

See docs/methods.md, section *Shared parts*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.taps import Tap

# Candidates for the coreset. A quarter of them cost up to 4 points of image AUROC, more of them gained nothing
# (docs/benchmarks.md).
MAX_CANDIDATES = 80_000
SEARCH_CANDIDATES = 20_000  # enough to compare energy floors with each other


def normalise(features: Tensor, energy_floor: float) -> Tensor:
    """Append a constant channel of energy `energy_floor` and scale each vector to length 1.

    The dot product of two results is 1 minus `training.maps.cosine_distance` with that energy floor. Source: our own.

    Args:
        features: float32 `[K, C]`.
        energy_floor: >= 0, in the units of the features' squared length.

    Returns:
        float32 `[K, C + 1]`, each row of length 1.
    """
    return F.normalize(F.pad(features, (0, 1), value=energy_floor**0.5), dim=1)


def greedy_coreset(points: Tensor, count: int, generator: torch.Generator, candidates: int = MAX_CANDIDATES) -> Tensor:
    """Select points one by one, each the farthest from all points selected before (greedy k-center).

    Rare features are covered as well as frequent ones; a random selection would mostly hold background. Source: the
    coreset of PatchCore (Roth et al., CVPR 2022); the random preselection of candidates is our own.

    Args:
        points: float32 `[K, C]`, each row of length 1.
        count: Number of points to select.
        generator: Draws the candidates and their order.
        candidates: Largest number of points to select from.

    Returns:
        int64 `[min(count, candidates, K)]`, indices into `points` in the order of selection.
    """
    sample = torch.randperm(len(points), generator=generator)[:candidates]
    pool = points[sample]
    chosen = [0]
    nearest = torch.full((len(pool),), -2.0)  # cosine to the nearest selected point; starts below any cosine
    for _ in range(min(count, len(pool)) - 1):
        nearest = torch.maximum(nearest, pool @ pool[chosen[-1]])
        chosen.append(int(nearest.argmin()))
    return sample[torch.tensor(chosen)]


class MemoryBank(nn.Module):
    """Distance of each coarse cell of a feature pyramid to the nearest prototype of a normal cell.

    A cell is described by its coarse features and the mean of the fine features that it covers. Source: after
    PatchCore (Roth et al., CVPR 2022); as the *query* of N-Net (docs/methods.md, section *N-Net*) it is our own.

    Args:
        channels: Channels of the two levels, finest first.
        count: Number of prototypes.

    Attributes:
        nearest: Whether the nearest prototype has the highest or the lowest value in the output of `candidates`.
        candidates: Its output has a value for each cell and prototype, float32 `[N * H * W, P]`.
        origins: int64 `[P, 3]`, where each prototype was seen: index of the image in the order given to `collect`, row
            and column on the grid of coarse cells. Empty before `select`.
    """

    prototypes: Tensor
    scale: Tensor
    nearest: ClassVar[Literal["highest", "lowest"]] = "highest"

    def __init__(self, channels: Sequence[int], count: int) -> None:
        super().__init__()
        self.energy_floor = 0.0
        self.candidates = Tap()
        self.register_buffer("prototypes", torch.zeros(count, sum(channels)))
        self.register_buffer("scale", torch.ones(()))
        self._cells = torch.zeros(0)
        self.origins = self._places = torch.zeros(0, 3, dtype=torch.int64)

    def descriptors(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the descriptors of all cells.

        Args:
            features: float `[N, C_1, 2H, 2W]` and `[N, C_2, H, W]`.

        Returns:
            float32 `[N, C_1 + C_2, H, W]`.
        """
        fine, coarse = features
        return torch.cat([F.avg_pool2d(fine.float(), 2), coarse.float()], 1)

    def collect(self, pyramids: Iterable[Sequence[Tensor]], images: int) -> None:
        """Collect the cells of normal images from which prototypes are selected.

        Args:
            pyramids: Feature pyramids of consecutive groups of images, two levels `[n, C_k, H_k, W_k]` each, so that
                not all features need to be in memory at once.
            images: Number of images in all groups. If they have more than `MAX_CANDIDATES` cells together, the same
                number of cells is drawn from each image.
        """
        generator, kept, places = torch.Generator().manual_seed(0), list[Tensor](), list[Tensor]()
        for pyramid in pyramids:
            described = self.descriptors(pyramid).permute(0, 2, 3, 1)
            width = described.shape[2]
            for cells in described.flatten(1, 2):
                each = min(len(cells), math.ceil(MAX_CANDIDATES / images))
                chosen = torch.randperm(len(cells), generator=generator)[:each]
                places.append(torch.stack([torch.full_like(chosen, len(kept)), chosen // width, chosen % width], 1))
                kept.append(cells[chosen])
        collected, self._places = torch.cat(kept), torch.cat(places)
        self.scale.copy_(collected.square().sum(1).mean().clamp_min(1e-20).rsqrt())
        self._cells = collected * self.scale

    def select(self, energy_floor: float, candidates: int = MAX_CANDIDATES) -> None:
        """Select the prototypes from the collected cells, by the distance with the given energy floor.

        Args:
            energy_floor: In units of the mean energy of the collected cells, see `training.maps.cosine_distance`.
            candidates: Largest number of cells to select from; fewer are faster and less accurate.
        """
        self.energy_floor = energy_floor
        generator = torch.Generator().manual_seed(0)
        chosen = greedy_coreset(normalise(self._cells, energy_floor), len(self.prototypes), generator, candidates)
        # With fewer cells than prototypes the last one is repeated, so that the graph keeps its shape.
        index = F.pad(chosen, (0, len(self.prototypes) - len(chosen)), value=int(chosen[-1]))
        self.prototypes.copy_(self._cells[index])
        self.origins = self._places[index]

    def release(self) -> None:
        """Free the collected cells; the prototypes and their origins stay."""
        self._cells, self._places = torch.zeros(0), self._places[:0]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the distance of each cell to its nearest prototype.

        Args:
            features: float `[N, C_1, 2H, 2W]` and `[N, C_2, H, W]`.

        Returns:
            float32 `[N, 1, H, W]` in [0, 2].
        """
        cells = self.descriptors(features) * self.scale
        count, channels, height, width = cells.shape
        queries = normalise(cells.permute(0, 2, 3, 1).reshape(-1, channels), self.energy_floor)
        similarity: Tensor = self.candidates(queries @ normalise(self.prototypes, self.energy_floor).T).amax(1)
        return (1 - similarity).clamp_min(0).view(count, 1, height, width)
