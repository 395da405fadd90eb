"""The memory bank: exact nearest neighbours, position, origins of the prototypes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.memory_bank.pyramids import CHANNELS, pyramid, repeated
from training.memory_bank import BankVariant, MemoryBank

VARIANTS = [BankVariant(0.3), BankVariant(0.3, 4.0), BankVariant(0.3, half_lloyd=True), BankVariant(1.0, 4.0, True)]


def bank_of(known: list[torch.Tensor], count: int, variant: BankVariant) -> MemoryBank:
    bank = MemoryBank(CHANNELS, count)
    bank.collect([known], len(known[0]))
    bank.select(variant)
    return bank


def test_distance_is_zero_at_prototypes_and_large_elsewhere() -> None:
    known = pyramid(4, seed=0)
    bank = bank_of(known, 64, BankVariant(0.3))  # 4 x 16 cells, all of them prototypes
    assert float(bank(known).max()) < 1e-5
    assert float(bank(pyramid(2, seed=1)).min()) > 0.05
    assert bank(known).shape == (4, 1, 4, 4)


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_bank_agrees_with_an_exhaustive_search(weight: float) -> None:
    bank = MemoryBank(CHANNELS, 20)
    groups = [pyramid(5, seed=0), pyramid(3, seed=2)]
    bank.collect(groups, 8)
    bank.select(BankVariant(1.0, weight))
    other = pyramid(1, seed=1)
    cells = (bank.descriptors(other) * bank.scale)[0].flatten(1).T.numpy()
    images = torch.cat([bank.descriptors(group) * bank.scale for group in groups]).numpy()
    prototypes = [(images[n, :, y, x], np.array([y, x])) for n, y, x in bank.origins.tolist()]

    def distance(cell: np.ndarray, place: np.ndarray, prototype: np.ndarray, origin: np.ndarray) -> float:
        lengths = np.sqrt((cell @ cell + 1) * (prototype @ prototype + 1))
        shift = (place - origin) / 4  # in sides of the image
        return float(1 - (prototype @ cell + 1) / lengths + weight * (shift @ shift))

    expected = [
        min(distance(cell, np.array([number // 4, number % 4]), *prototype) for prototype in prototypes)
        for number, cell in enumerate(cells)
    ]
    np.testing.assert_allclose(bank(other).flatten().numpy(), expected, atol=1e-5)


def test_position_makes_a_known_cell_anomalous_at_another_place() -> None:
    known = repeated(pyramid(1, seed=0), 6, noise=0.05, seed=1)
    swapped = [level.roll(level.shape[3] // 2, dims=3) for level in known]
    free, bound = (bank_of(known, 96, BankVariant(0.3, weight)) for weight in (0.0, 0.4))
    assert float(free(swapped).max()) < 1e-5
    # Half a side to the left or right costs 0.4 * 0.5^2.
    torch.testing.assert_close(bound(swapped), torch.full((6, 1, 4, 4), 0.1), atol=1e-5, rtol=1e-5)
    assert float(bound(known).max()) < 1e-5


def test_position_counts_in_sides_of_the_image_at_any_resolution() -> None:
    bank = bank_of(pyramid(3, seed=0), 48, BankVariant(0.3, 2.0))
    features = pyramid(1, seed=1, side=6)
    last = bank.queries(features, bank.variant)[-1, -2:]
    assert last.tolist() == pytest.approx([2 * (5 / 12)] * 2)  # sqrt(2 * 2) times the centre of the last of 6 cells


@pytest.mark.parametrize("variant", VARIANTS)
def test_origins_name_the_training_cells_of_the_prototypes(variant: BankVariant) -> None:
    bank = MemoryBank(CHANNELS, 200)  # more than the 8 x 16 cells: the last prototypes are repeated
    groups = [pyramid(5, seed=0), pyramid(3, seed=2)]
    bank.collect(groups, 8)
    bank.select(variant)
    images = [torch.cat(level) for level in zip(*groups, strict=True)]
    cells = bank.queries(images, variant).view(8, 4, 4, -1)
    image, row, column = bank.origins.T
    if not variant.half_lloyd:
        assert torch.equal(cells[image, row, column], bank.prototypes)
    exact = torch.cdist(bank.prototypes.double(), cells.flatten(0, 2).double()).argmin(1)
    assert torch.equal((image * 4 + row) * 4 + column, exact)
    assert torch.equal(bank.origins[127], bank.origins[199])
    assert bank.origins.dtype == torch.int64


def test_origins_count_images_across_groups_where_cells_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.memory_bank.bank.MAX_CANDIDATES", 20)
    bank = MemoryBank(CHANNELS, 20)
    bank.collect([pyramid(9, seed=0), pyramid(1, seed=1)], 10)
    bank.select(BankVariant())
    assert torch.bincount(bank.origins[:, 0]).tolist() == [2] * 10


def test_half_lloyd_does_not_keep_the_prototypes_that_it_moved() -> None:
    known = repeated(pyramid(1, seed=0), 30, noise=0.3, seed=1)
    plain, moved = (bank_of(known, 32, BankVariant(0.3, half_lloyd=half)) for half in (False, True))
    ordinary = repeated(pyramid(1, seed=0), 10, noise=0.1, seed=2)
    assert float(moved(ordinary).mean()) < float(plain(ordinary).mean())
    # With more prototypes than cells each of them is the mean of its one cell, also the repeated ones.
    full = bank_of(pyramid(2, seed=0), 50, BankVariant(0.3, half_lloyd=True))
    assert len(torch.unique(full.prototypes, dim=0)) == 32


def test_contaminated_bank_does_not_take_a_planted_defect_for_normal() -> None:
    known = repeated(pyramid(1, seed=0), 20, noise=0.05, seed=1)
    defect = pyramid(1, seed=7)
    planted = [level.clone() for level in known]
    for level, other in zip(planted, defect, strict=True):
        half = level.shape[3] // 2
        level[0, :, :half, :half] = other[0, :, :half, :half]
    again = [level[:1] for level in planted]
    plain, robust = (bank_of(planted, 64, BankVariant(0.3, supported=share)) for share in (1.0, 0.75))
    assert float(plain(again)[..., :2, :2].max()) < 1e-5
    assert float(robust(again)[..., :2, :2].min()) > 0.05
    # Normal cells keep their distance.
    good = repeated(pyramid(1, seed=0), 5, noise=0.05, seed=2)
    assert float((robust(good) - plain(good)).abs().max()) < 0.01


def test_fewer_cells_than_prototypes_keep_the_shape() -> None:
    bank = bank_of(pyramid(2, seed=0), 100, BankVariant())
    assert bank.prototypes.shape == (100, 19)
    assert torch.equal(bank.prototypes[31], bank.prototypes[99])


def test_fewer_prototypes_can_be_selected_than_the_bank_holds() -> None:
    bank = MemoryBank(CHANNELS, 40)
    bank.collect([pyramid(4, seed=0)], 4)
    bank.select(BankVariant(), count=10)
    assert bank.prototypes.shape == (40, 19)
    assert len(torch.unique(bank.prototypes, dim=0)) == 10
    bank.select(BankVariant(), count=1000)
    assert len(torch.unique(bank.prototypes, dim=0)) == 40


def test_every_image_contributes_the_same_number_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.memory_bank.bank.MAX_CANDIDATES", 20)
    bank = MemoryBank(CHANNELS, 20)
    dark, bright = pyramid(9, seed=0), [level + 40 for level in pyramid(1, seed=1)]
    bank.collect([dark, bright], 10)
    bank.select(BankVariant())
    # Two cells of each image; those of the one bright image have clearly larger features.
    assert int((bank.prototypes[:, :-3].mean(1) > 0.2).sum()) == 2


def test_release_keeps_the_prototypes_and_their_origins() -> None:
    known = pyramid(3, seed=0)
    bank = bank_of(known, 16, replace(VARIANTS[0], half_lloyd=True))
    distance, origins = bank(known), bank.origins.clone()
    bank.release()
    assert torch.equal(bank(known), distance)
    assert torch.equal(bank.origins, origins)
