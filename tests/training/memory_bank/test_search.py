"""The search for the nearest lifted vector: exact, in parts, and safe near 0."""

import pytest
import torch

from training.maps import cosine_distance
from training.memory_bank import search as module
from training.memory_bank.search import cell_centres, half_squared_distance, nearest, normalise, offsets


def vectors(count: int, seed: int, length: float = 1.0) -> torch.Tensor:
    return length * torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("floor", [0.0, 0.3, 3.0])
def test_dot_product_of_normalised_vectors_is_the_cosine_with_energy_floor(floor: float) -> None:
    a, b = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
    expected = cosine_distance(a.T[..., None, None], b.T[..., None, None], floor)[:, 0, 0, 0]
    torch.testing.assert_close(
        1 - (normalise(a.T, floor) * normalise(b.T, floor)).sum(1), expected, atol=1e-6, rtol=1e-5
    )


def test_search_finds_the_exact_neighbours_also_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, points = vectors(40, 0), vectors(25, 1)
    exact = torch.cdist(queries.double(), points.double())
    whole = nearest(queries, points)
    monkeypatch.setattr(module, "CHUNK", 60)  # two queries at a time
    for distance, index in (whole, nearest(queries, points)):
        assert torch.equal(index, exact.argmin(1))
        torch.testing.assert_close(distance.double(), 0.5 * exact.amin(1).square(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        half_squared_distance(queries, torch.addmm(offsets(points), queries, points.T)), whole[0]
    )


def test_distance_near_zero_is_not_negative_and_small() -> None:
    points = normalise(vectors(500, 0), 0.3)
    distance = half_squared_distance(points, torch.addmm(offsets(points), points, points.T))
    assert float(distance.min()) >= 0
    assert float(distance.max()) < 1e-6


def test_cell_centres_are_relative_to_the_centre_of_the_image() -> None:
    assert cell_centres(2, 4).tolist() == [
        [-0.25, -0.375], [-0.25, -0.125], [-0.25, 0.125], [-0.25, 0.375],
        [0.25, -0.375], [0.25, -0.125], [0.25, 0.125], [0.25, 0.375],
    ]  # fmt: skip
