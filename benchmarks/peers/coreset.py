"""Greedy k-centre selection with the result of anomalib's PatchCore, but fast enough for a CPU.

anomalib compares every patch with every new centre, in a random projection that has *more* dimensions than the small
teacher has channels. This takes hours for a product with 250 images. Two exact optimisations reduce this to minutes.
Distances after the projection are a quadratic form of the unprojected features, so the projection is not computed. A
patch is skipped if its distance to its nearest centre is less than half the distance from there to the new centre,
because it cannot be nearer to the new one (triangle inequality).
"""

import torch
from torch import Tensor

# Above this share of candidate patches, one matrix product with all patches is faster than gathering rows.
_GATHER_BELOW = 0.25
# Tolerance for rounding errors, so that no candidate is skipped.
_SLACK = 0.999


def projected_metric(features: Tensor, projection: Tensor) -> Tensor:
    """Return features whose pairwise distances equal those of the projected features.

    Args:
        features: float32 `[N, C]`.
        projection: float32 `[D, C]`, D >= C, of rank C.

    Returns:
        float32 `[N, C]`, with the mean subtracted to reduce rounding errors.
    """
    matrix = projection.double()
    factor = torch.linalg.cholesky(matrix.T @ matrix)
    points: Tensor = (features - features.mean(dim=0)) @ factor.float()
    return points


def greedy_centres(points: Tensor, count: int, first: int) -> Tensor:
    """Select centres one by one, each time the point farthest from all previous centres.

    Args:
        points: float32 `[N, C]`.
        count: Number of centres, 1 to N.
        first: Index of the first centre.

    Returns:
        int64 `[count]`, indices in the order of selection.
    """
    squares = points.square().sum(dim=1)
    chosen = torch.empty(count, dtype=torch.int64)
    centres = points.new_empty(count, points.shape[1])  # contiguous, because gathering them again is slow
    nearest = torch.full_like(squares, torch.inf)  # squared distance to the nearest centre
    owner = torch.zeros(len(points), dtype=torch.int64)  # position of the nearest centre in `chosen`
    index = first
    for position in range(count):
        centre = points[index]
        chosen[position], centres[position] = index, centre
        gaps = (centres[: position + 1] - centre).square().sum(dim=1)
        near = (nearest > _SLACK / 4 * gaps[owner]).nonzero().squeeze(1)
        if len(near) < _GATHER_BELOW * len(points):
            distances = (points[near] - centre).square().sum(dim=1)
        else:
            near = torch.arange(len(points))
            distances = torch.addmv(squares, points, centre, alpha=-2).add_(squares[index]).clamp_(min=0)
        closer = distances < nearest[near]
        near = near[closer]
        nearest[near] = distances[closer]
        owner[near] = position
        # Exactly 0 despite rounding errors, so that no point is selected twice.
        nearest[index] = 0
        index = int(nearest.argmax())
    return chosen
