"""A small, well-spread set of normal features: the memory behind a query."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_CANDIDATES = 80_000  # a quarter as many cost up to 4 points of image AUROC, more gain nothing; docs/benchmarks.md
FEW_CANDIDATES = 20_000  # enough to compare floors with each other


def lift(features: Tensor, floor: float) -> Tensor:
    """Appends a constant channel of energy `floor` and normalises: the dot product of two results is 1 minus
    `training.maps.cosine_distance` with that floor.

    Args:
        features: float32 `[K, C]`.

    Returns:
        float32 `[K, C + 1]` of length 1.
    """
    return F.normalize(F.pad(features, (0, 1), value=floor**0.5), dim=1)


def farthest_points(
    points: Tensor, count: int, generator: torch.Generator, candidates: int = MOST_CANDIDATES
) -> Tensor:
    """Chooses points that are far from each other, so that rare kinds of places are remembered like frequent ones.

    A random choice would remember the background a thousand times and the tip of a screw never. Source: [P] greedy
    k-center, as PatchCore's coreset.

    Args:
        points: float32 `[K, C]` of length 1.
        count: how many to choose.
        generator: draws the candidates and their order.
        candidates: how many of the points to choose among, at most.

    Returns:
        int64 `[min(count, K)]`, indices into `points`, in the order in which they were chosen.
    """
    sample = torch.randperm(len(points), generator=generator)[:candidates]
    pool = points[sample]
    chosen = [0]
    nearest = torch.full((len(pool),), -2.0)  # cosine to the nearest chosen one; below any cosine
    for _ in range(min(count, len(pool)) - 1):
        nearest = torch.maximum(nearest, pool @ pool[chosen[-1]])
        chosen.append(int(nearest.argmin()))
    return sample[torch.tensor(chosen)]


class Query(nn.Module):
    """Distance of every coarse cell to the nearest prototype of a normal one (4.3; hard instead of soft, our own).

    A cell is described by its coarse features and the mean of the fine ones over it.
    """

    prototypes: Tensor
    scale: Tensor

    def __init__(self, channels: Sequence[int], count: int) -> None:
        super().__init__()
        self.floor = 0.0
        self.register_buffer("prototypes", torch.zeros(count, sum(channels)))
        self.register_buffer("scale", torch.ones(()))
        self._cells = torch.zeros(0)

    def describe(self, features: Sequence[Tensor]) -> Tensor:
        """float `[N, C_k, H_k, W_k]` per level -> float32 `[N, C_1 + C_2, H_2, W_2]`."""
        fine, coarse = features
        return torch.cat([F.avg_pool2d(fine.float(), 2), coarse.float()], 1)

    def learn(self, pyramids: Iterable[Sequence[Tensor]], images: int) -> None:
        """Takes the places of good images, to choose prototypes from.

        Args:
            pyramids: two levels `[n, C_k, H_k, W_k]` each, so that not all need be in memory at once.
            images: how many these are together; of more than enough places, each image gives its share.
        """
        generator, kept = torch.Generator().manual_seed(0), list[Tensor]()
        for pyramid in pyramids:
            places = self.describe(pyramid).permute(0, 2, 3, 1).flatten(1, 2)
            each = min(places.shape[1], math.ceil(MOST_CANDIDATES / images))
            kept.extend(image[torch.randperm(len(image), generator=generator)[:each]] for image in places)
        cells = torch.cat(kept)
        self.scale.copy_(cells.square().sum(1).mean().clamp_min(1e-20).rsqrt())
        self._cells = cells * self.scale

    def choose(self, floor: float, candidates: int = MOST_CANDIDATES) -> None:
        """Chooses the prototypes that are far from each other by the distance with this floor.

        Args:
            floor: see `training.maps.cosine_distance`.
            candidates: how many places to choose among, at most; fewer are quicker and worse.
        """
        self.floor = floor
        generator = torch.Generator().manual_seed(0)
        chosen = farthest_points(lift(self._cells, floor), len(self.prototypes), generator, candidates)
        # Fewer places than prototypes: the last one again, so that the graph's shape stays.
        index = F.pad(chosen, (0, len(self.prototypes) - len(chosen)), value=int(chosen[-1]))
        self.prototypes.copy_(self._cells[index])

    def forget(self) -> None:
        """Lets go of the places; the prototypes stay."""
        self._cells = torch.zeros(0)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Returns float32 `[N, 1, H_2, W_2]` in [0, 2]."""
        cells = self.describe(features) * self.scale
        count, channels, height, width = cells.shape
        queries = lift(cells.permute(0, 2, 3, 1).reshape(-1, channels), self.floor)
        nearest = (queries @ lift(self.prototypes, self.floor).T).amax(1)
        return (1 - nearest).clamp_min(0).view(count, 1, height, width)
