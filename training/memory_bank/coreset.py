"""Selection of the prototypes of a memory bank from the cells of normal images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.memory_bank.search import CHUNK, nearest, offsets

# Candidates for the coreset. A quarter of them cost up to 4 points of image AUROC, more of them gained nothing
# (docs/benchmarks.md).
MAX_CANDIDATES = 80_000
LEADERS = 256  # points of which several are selected in one pass over all points
LLOYD_CELLS = 40_000  # cells whose means the prototypes are moved towards


def greedy_coreset(points: Tensor, count: int, generator: torch.Generator, candidates: int = MAX_CANDIDATES) -> Tensor:
    """Select points one by one, each the farthest from all points selected before (greedy k-center).

    Rare features are covered as well as frequent ones; a random selection would mostly hold background. Source: the
    coreset of PatchCore (Roth et al., CVPR 2022); the random preselection of candidates is our own. So is the order of
    the computation, which gives the same selection with fewer passes over all points: distances to the selected points
    only decrease, so the farthest points of the last pass are compared with each other alone until one that they do not
    include could be farther.

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
    bias, wanted = offsets(pool), min(count, len(pool))
    closest = torch.full((len(pool),), torch.inf)  # half the squared distance to the nearest selected point
    chosen, newest = list[int](), [0]
    while True:
        chosen += newest
        last = torch.tensor(newest)
        nearest_new = torch.addmm(bias[last], pool, pool[last].T).amax(1)
        closest = torch.minimum(closest, -bias - nearest_new)
        closest[last] = -torch.inf  # so that no point is selected twice, whatever is rounded
        if len(chosen) >= wanted:
            return sample[torch.tensor(chosen)]
        newest = _farthest(pool, bias, closest, wanted - len(chosen))


def _farthest(pool: Tensor, bias: Tensor, closest: Tensor, count: int) -> list[int]:
    """Select the next points, at least one and at most `count`, as long as `LEADERS` points decide which they are.

    Args:
        pool: float32 `[K, D]`.
        bias: The result of `offsets` for them.
        closest: Half the squared distance of each to the nearest selected point, float32 `[K]`.
        count: Largest number of points to select.
    """
    values, leaders = closest.topk(min(LEADERS + 1, len(pool)))
    limit = float(values[LEADERS]) if len(values) > LEADERS else -torch.inf  # no other point is farther away than this
    leaders = leaders[:LEADERS]
    rows = pool[leaders]
    between = (-bias[leaders, None] - torch.addmm(bias[leaders], rows, rows.T)).numpy()
    left, found = values[:LEADERS].numpy().copy(), list[int]()
    while len(found) < min(count, len(left)):
        best = int(left.argmax())
        if found and left[best] < limit:
            break
        found.append(best)
        np.minimum(left, between[best], out=left)
        left[best] = -np.inf
    return leaders[torch.tensor(found)].tolist()


def penalties(cells: Tensor, images: Tensor, chosen: Tensor, supported: float) -> Tensor:
    """Compute what the distance to each prototype is increased by because no other image shows its like.

    A defective image among the training images has cells that no other image has, and a greedy coreset selects just
    these. The penalty is the distance of the prototype to the nearest cell of another image, as far as that is larger
    than for the share `supported` of the prototypes. So such a prototype makes similar cells less normal, instead of
    normal, and a rare normal cell costs little. Source: the idea of weighting a memory bank against contamination is
    SoftPatch's (Jiang et al., NeurIPS 2022); the penalty is our own.

    Args:
        cells: float32 `[K, D]`.
        images: The image of each cell, int64 `[K]`.
        chosen: Indices of the prototypes, int64 `[P]`.
        supported: Share of the prototypes without a penalty, in [0, 1].

    Returns:
        float32 `[P]`, >= 0; zeros if all cells are of one image.
    """
    if supported >= 1 or bool((images == images[0]).all()):
        return torch.zeros(len(chosen))
    bias, found = offsets(cells), list[Tensor]()
    for part in torch.split(chosen, max(1, CHUNK // len(cells))):
        prototypes = cells[part]
        products = torch.addmm(bias, prototypes, cells.T)
        products.masked_fill_(images[part, None] == images, -torch.inf)
        found.append((0.5 * prototypes.square().sum(1) - products.amax(1)).clamp_min(0))
    distances = torch.cat(found)
    return (distances - distances.quantile(supported)).clamp_min(0)


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
