"""Memory banks at two scales of the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from service.bundle.manifest import MemoryBankChoice
from training.memory_bank.bank import SEARCH_CANDIDATES, SEARCH_PROTOTYPES, BankVariant, MemoryBank
from training.memory_bank.coreset import MAX_CANDIDATES
from training.memory_bank.variant import measure_neighbours
from training.parallel import in_parallel

BANKS = ("query_reduced", "query_full")
"""Names of the banks, of the maps that they add, and of the attributes of `ScaledBanks`."""


class ScaledBanks(nn.Module):
    """A memory bank for a reduced copy of the image and one for the image itself.

    In the reduced copy, a cell covers enough context to detect a wrong pattern; at full resolution, it still resolves
    an anomaly of a few pixels. Source: our own.

    Args:
        channels: Channels of the two levels of both banks, finest first, see `MemoryBank`.
        prototypes: Prototypes of each bank.
        candidates: Largest number of training cells from which the prototypes of a bank are selected.
        place_weight: Weight of a cell's position for aligned parts, see `training.memory_bank.variant`; 0: none.
        supported: Share of the prototypes without a penalty, in [0, 1], see `coreset.penalties`; 1: no penalties.
    """

    def __init__(
        self,
        channels: Sequence[int],
        prototypes: int,
        candidates: int = MAX_CANDIDATES,
        place_weight: float = 1.0,
        supported: float = 1.0,
    ) -> None:
        super().__init__()
        self.prototypes, self.candidates = prototypes, candidates
        self.place_weight, self.supported = place_weight, supported
        self.energy_floor = 0.0  # in mean energies, see `BankVariant`
        self.query_reduced, self.query_full = (MemoryBank(channels, prototypes) for _ in BANKS)

    @property
    def by_name(self) -> dict[str, MemoryBank]:
        """Return both banks by their names, that of the reduced copy first."""
        return dict(zip(BANKS, (self.query_reduced, self.query_full), strict=True))

    @torch.no_grad()
    def collect(self, reduced: Iterable[Sequence[Tensor]], full: Iterable[Sequence[Tensor]], images: int) -> None:
        """Collect the cells of normal images for both banks.

        Args:
            reduced: Feature pyramids of the reduced copies, see `MemoryBank.collect`.
            full: Feature pyramids of the same images at full resolution.
            images: Number of images.
        """
        self.query_reduced.collect(reduced, images)
        self.query_full.collect(full, images)

    @torch.no_grad()
    def search(self) -> None:
        """Select few prototypes for the current energy floor, enough to compare energy floors with each other."""
        self._select([BankVariant(self.energy_floor)] * 2, SEARCH_CANDIDATES, SEARCH_PROTOTYPES)

    @torch.no_grad()
    def settle(self, reduced: Iterable[Sequence[Tensor]], full: Iterable[Sequence[Tensor]]) -> MemoryBankChoice:
        """Choose the variant of both banks for the current energy floor, select all prototypes and free the cells.

        Args:
            reduced: Feature pyramids of the reduced copies of normal images that were not collected.
            full: Feature pyramids of the same images at full resolution.

        Returns:
            What was chosen, for the manifest.
        """
        floor, weight = self.energy_floor, self.place_weight
        small = measure_neighbours(self.query_reduced, reduced, floor)
        large = measure_neighbours(self.query_full, full, floor)
        # The coarse grid of the reduced copy decides for both banks: on it, a shift of a few pixels is no other place.
        variants = [bank.variant(floor, weight, decisive=small, supported=self.supported) for bank in (small, large)]
        self._select(variants, self.candidates)
        for bank in self.by_name.values():
            bank.release()
        return MemoryBankChoice(
            aligned=small.aligned,
            half_lloyd=variants[0].half_lloyd,
            place_weight=weight,
            prototypes=self.prototypes,
            same_place=small.same_place,
            near_place=small.near_place,
            mean_distances=dict(zip(BANKS, (small.mean_distance, large.mean_distance), strict=True)),
        )

    def _select(self, variants: Sequence[BankVariant], candidates: int, count: int | None = None) -> None:
        pairs = zip(self.by_name.values(), variants, strict=True)
        list(in_parallel(lambda pair: pair[0].select(pair[1], candidates, count), pairs))

    def forward(self, reduced: Sequence[Tensor], full: Sequence[Tensor]) -> list[Tensor]:
        """Compute the distances of both scales.

        Args:
            reduced: Features of the reduced copy, float `[N, C_1, 2h, 2w]` and `[N, C_2, h, w]`.
            full: Features of the image, float `[N, C_1, 2H, 2W]` and `[N, C_2, H, W]`.

        Returns:
            float32 `[N, 1, h, w]` and `[N, 1, H, W]`, see `MemoryBank.forward`.
        """
        return [self.query_reduced(reduced), self.query_full(full)]
