"""Prototypes of normal places: spread widely, found exactly, and the same distance as everywhere else."""

import numpy as np
import pytest
import torch

from training.maps import cosine_distance
from training.memory_bank import Query, farthest_points, lift


def test_rare_places_are_remembered_beside_frequent_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    background = torch.tensor([1.0, 0, 0, 0]) + 0.01 * torch.randn(5000, 4, generator=generator)
    rare = torch.tensor([0, 0, 0, 1.0]).repeat(3, 1)
    points = torch.nn.functional.normalize(torch.cat([background, rare]), dim=1)
    chosen = farthest_points(points, 2, torch.Generator().manual_seed(1))
    assert (chosen >= 5000).sum() == 1


def test_choice_follows_from_the_generator_and_has_no_doubles() -> None:
    points = torch.nn.functional.normalize(torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    first, again = (farthest_points(points, 50, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(set(first.tolist())) == 50
    assert len(farthest_points(points, 500, torch.Generator().manual_seed(7))) == 200


@pytest.mark.parametrize("floor", [0.0, 0.3, 3.0])
def test_lifted_dot_product_is_the_floored_cosine(floor: float) -> None:
    a, b = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
    expected = cosine_distance(a.T[..., None, None], b.T[..., None, None], floor)[:, 0, 0, 0]
    torch.testing.assert_close(1 - (lift(a.T, floor) * lift(b.T, floor)).sum(1), expected, atol=1e-6, rtol=1e-5)


def pyramid(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 6, 8, 8, generator=generator), torch.randn(count, 10, 4, 4, generator=generator)]


def test_distance_is_zero_at_what_is_remembered_and_large_elsewhere() -> None:
    query = Query([6, 10], 64)
    known = pyramid(4, seed=0)
    query.learn([known], 4)
    query.choose(0.3)  # 4 x 16 places, all of them prototypes
    assert float(query(known).max()) < 1e-5
    assert float(query(pyramid(2, seed=1)).min()) > 0.05
    assert query(known).shape == (4, 1, 4, 4)


def test_query_agrees_with_a_search_by_hand() -> None:
    query = Query([6, 10], 20)
    query.learn([pyramid(5, seed=0), pyramid(3, seed=2)], 8)
    query.choose(1.0)
    other = pyramid(1, seed=1)
    cells = (query.describe(other) * query.scale)[0].flatten(1).T.numpy()
    prototypes = query.prototypes.numpy()

    def by_hand(cell: np.ndarray) -> float:
        lengths = np.sqrt((cell**2).sum() + 1) * np.sqrt((prototypes**2).sum(1) + 1)
        return float((1 - (prototypes @ cell + 1) / lengths).min())

    np.testing.assert_allclose(query(other).flatten().numpy(), [by_hand(cell) for cell in cells], atol=1e-5)


def test_fewer_places_than_prototypes_keep_the_shape() -> None:
    query = Query([6, 10], 100)
    query.learn([pyramid(2, seed=0)], 2)
    query.choose(0.0)
    assert query.prototypes.shape == (100, 16)
    assert torch.equal(query.prototypes[31], query.prototypes[99])


def test_of_more_places_than_needed_every_image_gives_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.memory_bank.MOST_CANDIDATES", 20)
    query = Query([6, 10], 20)
    dark, bright = pyramid(9, seed=0), [level + 40 for level in pyramid(1, seed=1)]
    query.learn([dark, bright], 10)
    query.choose(0.0)
    # Two places of each image; those of the one bright image are of another kind altogether.
    assert int((query.prototypes.mean(1) / query.scale > 20).sum()) == 2
