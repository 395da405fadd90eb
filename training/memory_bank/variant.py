"""Selection of a product's variant of the memory bank from good images alone.

Whether a position says something about a part depends on how it lies in the image: a transistor lies at the same place
in every image, a screw does not. Synthetic anomalies cannot show this, because none of them is a part at the wrong
place. The variant is therefore selected by where the nearest training cells of the cells of good images lie that were
not trained on. Neither defective images nor the images of the calibration card take part. Source: our own; the limits
were chosen with test images of the development products in sight (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.memory_bank.bank import BankVariant, MemoryBank
from training.memory_bank.search import nearest

ALIGNED_SHARE = 0.5
SURFACE_SHARE = 0.5
HARDEST = 1 / 3  # of the cells of an image: most of the others are background, the same at every place
# Sides of the image; a shift by this much costs as much as the mean distance of good images, times tau.
UNIT_SHIFT = 0.1


@dataclass(frozen=True)
class Neighbours:
    """Where the nearest training cells of the cells of other good images lie.

    Attributes:
        same_place: Share of the hardest third of the cells of each image whose nearest training cell lies at exactly
            the same place, in [0, 1]; by the direction of the features, without an energy floor.
        near_place: Share of all cells whose nearest training cell lies at most one cell away in each direction, in
            [0, 1].
        mean_distance: Mean distance to the nearest training cell, without position.
    """

    same_place: float
    near_place: float
    mean_distance: float

    @property
    def aligned(self) -> bool:
        """Whether the part lies at the same place in every image."""
        return self.same_place >= ALIGNED_SHARE

    @property
    def surface(self) -> bool:
        """Whether the image shows a surface, which looks the same at every place."""
        return self.near_place < SURFACE_SHARE

    def variant(
        self, energy_floor: float, place_weight: float, decisive: Neighbours, supported: float = 1.0
    ) -> BankVariant:
        """Return the variant of a bank with these neighbours.

        Args:
            energy_floor: The selected energy floor.
            place_weight: The factor tau on the weight of the position of aligned parts.
            decisive: The neighbours of the product's coarsest bank, which decide for all of its banks.
            supported: Share of the prototypes without a penalty, in [0, 1].
        """
        weight = place_weight * self.mean_distance / UNIT_SHIFT**2 if decisive.aligned else 0.0
        half_lloyd = decisive.aligned or decisive.surface
        return BankVariant(energy_floor, weight, half_lloyd, supported)


@torch.no_grad()
def measure_neighbours(bank: MemoryBank, pyramids: Iterable[Sequence[Tensor]], energy_floor: float) -> Neighbours:
    """Find the nearest collected cell of each cell of images that the bank has not seen, without position.

    Args:
        bank: A memory bank with collected cells.
        pyramids: Feature pyramids of good images that were not collected, see `MemoryBank.collect`.
        energy_floor: The selected energy floor.
    """
    kinds = (BankVariant(), BankVariant(energy_floor))
    plain, floored = (bank.collected(kind) for kind in kinds)
    distances, same, near = list[Tensor](), list[Tensor](), list[Tensor]()
    for pyramid in pyramids:
        count, _, height, width = pyramid[1].shape
        places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).repeat(count, 1)
        # With an energy floor, cells of a dark background differ by their brightness alone, which is that of the same
        # place in another image: screws at any angle would look aligned.
        (directions, of_direction), (distance, index) = (
            nearest(bank.queries(pyramid, kind), cells)
            for kind, (cells, _) in zip(kinds, (plain, floored), strict=True)
        )
        at_place = (plain[1][of_direction, 1:] == places).all(1).view(count, -1)
        hardest = directions.view(count, -1).topk(max(1, round(HARDEST * height * width)), dim=1).indices
        same.append(at_place.gather(1, hardest).float())
        near.append(((floored[1][index, 1:] - places).abs().amax(1) <= 1).float())
        distances.append(distance)
    mean = [float(torch.cat([one.flatten() for one in part]).mean()) for part in (same, near, distances)]
    return Neighbours(*mean)
