"""The coreset: coverage of rare features, determinism, the half-way move to the means."""

import pytest
import torch

from training.memory_bank.coreset import greedy_coreset, half_lloyd, penalties


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


def test_points_of_any_length_are_selected_by_distance() -> None:
    # (0, 3) has the largest dot product with the others, and is the farthest of them nevertheless.
    points = torch.tensor([[0.0, 1.0], [0.1, 1.0], [0.0, 3.0], [0.05, 0.95]])
    chosen = greedy_coreset(points, 2, torch.Generator().manual_seed(0))
    assert 2 in chosen.tolist()


def test_prototypes_move_half_way_to_the_mean_of_their_cells() -> None:
    prototypes = torch.tensor([[0.0, 0.0], [10.0, 0.0], [50.0, 50.0]])
    cells = torch.tensor([[1.0, 1.0], [3.0, 1.0], [9.0, -1.0]])
    moved = half_lloyd(prototypes, cells, torch.Generator().manual_seed(0))
    assert moved.tolist() == [[1.0, 0.5], [9.5, -0.5], [50.0, 50.0]]


def test_no_more_cells_than_the_sample_move_the_prototypes() -> None:
    cells = torch.arange(10.0)[:, None]
    moved = half_lloyd(torch.zeros(1, 1), cells, torch.Generator().manual_seed(3), sample=1)
    assert 2 * float(moved) in cells.flatten().tolist()


def test_prototypes_that_no_other_image_shows_get_a_penalty() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = 0.01 * torch.randn(60, 4, generator=generator)
    images = torch.arange(60) // 10
    cells[3:6] += 2.0  # a defect of the first image: its cells are alike, and no other image has such
    chosen = torch.arange(0, 60)
    penalty = penalties(cells, images, chosen, supported=0.9)
    assert float(penalty[3:6].min()) > 7  # half the squared distance of (2, 2, 2, 2), nearly
    assert float(torch.cat([penalty[:3], penalty[6:]]).max()) < 0.01
    assert torch.equal(penalties(cells, images, chosen, supported=1.0), torch.zeros(60))
    assert torch.equal(penalties(cells, torch.zeros(60, dtype=torch.int64), chosen, 0.5), torch.zeros(60))


def test_defect_in_two_images_supports_itself() -> None:
    cells = 0.01 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    cells[[3, 23]] += 2.0
    assert float(penalties(cells, torch.arange(60) // 10, torch.arange(60), 0.75).max()) < 0.01


@pytest.mark.parametrize("leaders", [1, 4, 64])
def test_selection_in_few_passes_is_the_greedy_one(leaders: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.memory_bank.coreset.LEADERS", leaders)
    points = torch.randn(300, 6, generator=torch.Generator().manual_seed(2))
    chosen = greedy_coreset(points, 60, torch.Generator().manual_seed(3))
    expected = [int(chosen[0])]
    for _ in range(59):
        expected.append(int(torch.cdist(points, points[expected]).amin(1).argmax()))
    assert chosen.tolist() == expected


def test_every_point_is_selected_once_even_if_all_are_alike() -> None:
    chosen = greedy_coreset(torch.ones(20, 3), 20, torch.Generator().manual_seed(0))
    assert sorted(chosen.tolist()) == list(range(20))
