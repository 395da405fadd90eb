"""The memory bank: coverage of the coreset, exact nearest neighbours, consistency with the cosine distance."""

import numpy as np
import pytest
import torch

from training.maps import cosine_distance
from training.memory_bank import MemoryBank, greedy_coreset, normalise


def test_rare_features_are_selected_as_well_as_frequent_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    background = torch.tensor([1.0, 0, 0, 0]) + 0.01 * torch.randn(5000, 4, generator=generator)
    rare = torch.tensor([0, 0, 0, 1.0]).repeat(3, 1)
    points = torch.nn.functional.normalize(torch.cat([background, rare]), dim=1)
    chosen = greedy_coreset(points, 2, torch.Generator().manual_seed(1))
    assert (chosen >= 5000).sum() == 1


def test_coreset_depends_on_the_generator_alone_and_has_no_duplicates() -> None:
    points = torch.nn.functional.normalize(torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    first, again = (greedy_coreset(points, 50, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(set(first.tolist())) == 50
    assert len(greedy_coreset(points, 500, torch.Generator().manual_seed(7))) == 200


@pytest.mark.parametrize("floor", [0.0, 0.3, 3.0])
def test_dot_product_of_normalised_vectors_is_the_cosine_with_energy_floor(floor: float) -> None:
    a, b = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
    expected = cosine_distance(a.T[..., None, None], b.T[..., None, None], floor)[:, 0, 0, 0]
    torch.testing.assert_close(
        1 - (normalise(a.T, floor) * normalise(b.T, floor)).sum(1), expected, atol=1e-6, rtol=1e-5
    )


def pyramid(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 6, 8, 8, generator=generator), torch.randn(count, 10, 4, 4, generator=generator)]


def test_distance_is_zero_at_prototypes_and_large_elsewhere() -> None:
    bank = MemoryBank([6, 10], 64)
    known = pyramid(4, seed=0)
    bank.collect([known], 4)
    bank.select(0.3)  # 4 x 16 cells, all of them prototypes
    assert float(bank(known).max()) < 1e-5
    assert float(bank(pyramid(2, seed=1)).min()) > 0.05
    assert bank(known).shape == (4, 1, 4, 4)


def test_bank_agrees_with_an_exhaustive_search() -> None:
    bank = MemoryBank([6, 10], 20)
    bank.collect([pyramid(5, seed=0), pyramid(3, seed=2)], 8)
    bank.select(1.0)
    other = pyramid(1, seed=1)
    cells = (bank.descriptors(other) * bank.scale)[0].flatten(1).T.numpy()
    prototypes = bank.prototypes.numpy()

    def exhaustive(cell: np.ndarray) -> float:
        lengths = np.sqrt((cell**2).sum() + 1) * np.sqrt((prototypes**2).sum(1) + 1)
        return float((1 - (prototypes @ cell + 1) / lengths).min())

    np.testing.assert_allclose(bank(other).flatten().numpy(), [exhaustive(cell) for cell in cells], atol=1e-5)


def test_fewer_cells_than_prototypes_keep_the_shape() -> None:
    bank = MemoryBank([6, 10], 100)
    bank.collect([pyramid(2, seed=0)], 2)
    bank.select(0.0)
    assert bank.prototypes.shape == (100, 16)
    assert torch.equal(bank.prototypes[31], bank.prototypes[99])


def test_every_image_contributes_the_same_number_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.memory_bank.MAX_CANDIDATES", 20)
    bank = MemoryBank([6, 10], 20)
    dark, bright = pyramid(9, seed=0), [level + 40 for level in pyramid(1, seed=1)]
    bank.collect([dark, bright], 10)
    bank.select(0.0)
    # Two cells of each image; those of the one bright image have clearly larger features.
    assert int((bank.prototypes.mean(1) / bank.scale > 20).sum()) == 2


def test_prototypes_keep_the_image_and_the_cell_that_they_were_seen_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.memory_bank.MAX_CANDIDATES", 40)  # 5 cells of each image
    bank = MemoryBank([6, 10], 20)
    groups = [pyramid(5, seed=0), pyramid(3, seed=2)]
    bank.collect(groups, 8)
    bank.select(0.3)
    bank.release()
    cells = torch.cat([bank.descriptors(group) for group in groups]) * bank.scale
    images, rows, columns = bank.origins.T
    assert bank.origins.shape == (20, 3)
    torch.testing.assert_close(cells[images, :, rows, columns], bank.prototypes)
