"""Greedy k-centre selection, as anomalib's PatchCore does it, fast enough for a CPU.

anomalib compares every patch with every new centre, in a random projection that has *more* dimensions than our small
teacher has channels: hours for a product of 250 images. Two exact shortcuts bring the same choice within minutes:
distances after the projection are a quadratic form of the unprojected features, so these are enough; and a patch that
is nearer to its own centre than half the way from there to the new one cannot change sides (triangle inequality).
"""

import torch
from torch import Tensor

# Above this share of patches to look at, one product with all of them is cheaper than gathering rows.
_GATHER_BELOW = 0.25
# Rounding must never hide a patch that might change sides.
_SLACK = 0.999


def projected_metric(features: Tensor, projection: Tensor) -> Tensor:
    """Features whose mutual distances are those of the projected features.

    Args:
        features: float32 `[N, C]`.
        projection: float32 `[D, C]`, D >= C, of rank C.

    Returns:
        float32 `[N, C]`, about the mean, so that rounding is small.
    """
    matrix = projection.double()
    factor = torch.linalg.cholesky(matrix.T @ matrix)
    points: Tensor = (features - features.mean(dim=0)) @ factor.float()
    return points


def greedy_centres(points: Tensor, count: int, first: int) -> Tensor:
    """Picks centres one by one, each time the point farthest from all before.

    Args:
        points: float32 `[N, C]`.
        count: Centres, 1..N.
        first: Index of the first.

    Returns:
        int64 `[count]`, indices in the order of choice.
    """
    squares = points.square().sum(dim=1)
    chosen = torch.empty(count, dtype=torch.int64)
    centres = points.new_empty(count, points.shape[1])  # side by side: gathering them anew would cost the most
    nearest = torch.full_like(squares, torch.inf)  # squared distance to the own centre
    owner = torch.zeros(len(points), dtype=torch.int64)  # position of the own centre in `chosen`
    index = first
    for position in range(count):
        centre = points[index]
        chosen[position], centres[position] = index, centre
        ways = (centres[: position + 1] - centre).square().sum(dim=1)
        near = (nearest > _SLACK / 4 * ways[owner]).nonzero().squeeze(1)
        if len(near) < _GATHER_BELOW * len(points):
            distances = (points[near] - centre).square().sum(dim=1)
        else:
            near = torch.arange(len(points))
            distances = torch.addmv(squares, points, centre, alpha=-2).add_(squares[index]).clamp_(min=0)
        closer = distances < nearest[near]
        near = near[closer]
        nearest[near] = distances[closer]
        owner[near] = position
        # Also where rounding leaves a remainder, or a copy of the centre lies elsewhere: nothing is chosen twice.
        nearest[index] = 0
        index = int(nearest.argmax())
    return chosen
