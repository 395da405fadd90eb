"""A small, well-spread set of normal features: the memory behind a query."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_CANDIDATES = 24_000  # a sample that large holds every kind of place that is not rarer than a few in the data set


def lift(features: Tensor, floor: float) -> Tensor:
    """Appends a constant channel of energy `floor` and normalises: the dot product of two results is 1 minus
    `training.maps.cosine_distance` with that floor.

    Args:
        features: float32 `[K, C]`.

    Returns:
        float32 `[K, C + 1]` of length 1.
    """
    return F.normalize(F.pad(features, (0, 1), value=floor**0.5), dim=1)


def farthest_points(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Chooses points that are far from each other, so that rare kinds of places are remembered like frequent ones.

    A random choice would remember the background a thousand times and the tip of a screw never. Source: [P] greedy
    k-center, as PatchCore's coreset.

    Args:
        points: float32 `[K, C]` of length 1.
        count: how many to choose.
        generator: draws the candidates and their order.

    Returns:
        int64 `[min(count, K)]`, indices into `points`, in the order in which they were chosen.
    """
    candidates = torch.randperm(len(points), generator=generator)[:MOST_CANDIDATES]
    pool = points[candidates]
    chosen = [0]
    nearest = torch.full((len(pool),), -2.0)  # cosine to the nearest chosen one; below any cosine
    for _ in range(min(count, len(pool)) - 1):
        nearest = torch.maximum(nearest, pool @ pool[chosen[-1]])
        chosen.append(int(nearest.argmin()))
    return candidates[torch.tensor(chosen)]
