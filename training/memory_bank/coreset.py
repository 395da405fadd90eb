"""Selection of the prototypes of a memory bank from the cells of normal images."""

from __future__ import annotations

import torch
from torch import Tensor

from training.memory_bank.search import nearest, offsets

# Candidates for the coreset. A quarter of them cost up to 4 points of image AUROC, more of them gained nothing
# (docs/benchmarks.md).
MAX_CANDIDATES = 80_000
LLOYD_CELLS = 40_000  # cells whose means the prototypes are moved towards


def greedy_coreset(points: Tensor, count: int, generator: torch.Generator, candidates: int = MAX_CANDIDATES) -> Tensor:
    """Select points one by one, each the farthest from all points selected before (greedy k-center).

    Rare features are covered as well as frequent ones; a random selection would mostly hold background. Source: the
    coreset of PatchCore (Roth et al., CVPR 2022); the random preselection of candidates is our own.

    Args:
        points: float32 `[K, D]`.
        count: Number of points to select.
        generator: Draws the candidates and their order.
        candidates: Largest number of points to select from.

    Returns:
        int64 `[min(count, candidates, K)]`, indices into `points` in the order of selection.
    """
    sample = torch.randperm(len(points), generator=generator)[:candidates]
    pool = points[sample]
    half, bias = 0.5 * pool.square().sum(1), offsets(pool)
    chosen = [0]
    closest = torch.full((len(pool),), float("inf"))  # half the squared distance to the nearest selected point
    for _ in range(min(count, len(pool)) - 1):
        last = chosen[-1]
        closest = torch.minimum(closest, half - torch.mv(pool, pool[last]) - bias[last])
        chosen.append(int(closest.argmax()))
    return sample[torch.tensor(chosen)]


def half_lloyd(prototypes: Tensor, cells: Tensor, generator: torch.Generator, sample: int = LLOYD_CELLS) -> Tensor:
    """Move each prototype half-way to the mean of the cells that it is the nearest prototype of.

    A greedy coreset holds the outermost cells. Half-way to the mean, a prototype represents the ordinary cells around
    it as well, and keeps half of its reach outwards. The moved prototypes are not scaled to length 1 again. Source: a
    damped step of Lloyd's algorithm (k-means); its use here is our own.

    Args:
        prototypes: float32 `[P, D]`, without duplicates.
        cells: float32 `[K, D]`, of which a random sample is assigned to the prototypes.
        generator: Draws the sample.
        sample: Largest number of cells to assign.

    Returns:
        float32 `[P, D]`; a prototype without cells stays where it is.
    """
    drawn = cells[torch.randperm(len(cells), generator=generator)[:sample]]
    _, owner = nearest(drawn, prototypes)
    sums = torch.zeros_like(prototypes).index_add_(0, owner, drawn)
    counts = torch.bincount(owner, minlength=len(prototypes))[:, None]
    means = torch.where(counts > 0, sums / counts.clamp_min(1), prototypes)
    return 0.5 * (prototypes + means)
