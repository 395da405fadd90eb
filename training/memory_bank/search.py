"""Lifted vectors of a memory bank and the search for the nearest of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 24  # products that are kept at once, 64 MiB


def normalise(features: Tensor, energy_floor: float) -> Tensor:
    """Append a constant channel of energy `energy_floor` and scale each vector to length 1.

    Half the squared distance of two results, which is 1 minus their dot product, is
    `training.maps.cosine_distance` with that energy floor. Source: our own.

    Args:
        features: float32 `[K, C]`.
        energy_floor: >= 0, in the units of the features' squared length.

    Returns:
        float32 `[K, C + 1]`, each row of length 1.
    """
    return F.normalize(F.pad(features, (0, 1), value=energy_floor**0.5), dim=1)


def cell_centres(height: int, width: int) -> Tensor:
    """Return the centres of the cells of a grid relative to the image's centre.

    Distances do not depend on the origin; with the centre as origin the squares, and with them the rounding errors of
    the search, are smallest.

    Returns:
        float32 `[height * width, 2]`: row and column in sides of the image, in (-1/2, 1/2), row by row.
    """
    rows = (torch.arange(height, dtype=torch.float32) + 0.5) / height - 0.5
    columns = (torch.arange(width, dtype=torch.float32) + 0.5) / width - 0.5
    return torch.cartesian_prod(rows, columns)


def offsets(points: Tensor) -> Tensor:
    """Return half the negative squared length of each point, the bias of the search, float32 `[P]`."""
    return -0.5 * points.square().sum(1)


def half_squared_distance(queries: Tensor, candidates: Tensor) -> Tensor:
    """Compute half the squared Euclidean distance of each query to the nearest point from one matrix product.

    `min_p |q - p|^2 / 2 = |q|^2 / 2 - max_p (q . p - |p|^2 / 2)`. The result of the subtraction can be below 0 by a
    rounding error and is clamped; the error is at most a few units of the last place of `|q|^2`.

    Args:
        queries: float32 `[Q, D]`.
        candidates: `q . p - |p|^2 / 2` of each query and point, float32 `[Q, P]`.

    Returns:
        float32 `[Q]`, >= 0.
    """
    return (0.5 * queries.square().sum(1) - candidates.amax(1)).clamp_min(0)


def nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest point of each query by an exhaustive search in bounded memory.

    Args:
        queries: float32 `[Q, D]`.
        points: float32 `[P, D]`.

    Returns:
        Half the squared Euclidean distances, float32 `[Q]`, >= 0, and the indices into `points`, int64 `[Q]`.
    """
    bias, size = offsets(points), max(1, CHUNK // len(points))
    found = [torch.addmm(bias, part, points.T).max(1) for part in torch.split(queries, size)]
    products, index = (torch.cat(column) for column in zip(*found, strict=True))
    return (0.5 * queries.square().sum(1) - products).clamp_min(0), index
