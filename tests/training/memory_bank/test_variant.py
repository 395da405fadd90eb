"""The variant of the memory bank follows from where the nearest cells of good images lie."""

import pytest
import torch

from tests.training.memory_bank.pyramids import CHANNELS, pyramid, repeated
from training.memory_bank import BankVariant, MemoryBank, Neighbours, measure_neighbours

SIDE = 6


def neighbours_of(known: list[torch.Tensor], others: list[torch.Tensor], energy_floor: float = 0.3) -> Neighbours:
    bank = MemoryBank(CHANNELS, 8)
    bank.collect([known], len(known[0]))
    return measure_neighbours(bank, [others], energy_floor)


def shuffled(features: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Return the images with their cells at random places."""
    generator = torch.Generator().manual_seed(seed)
    fine, coarse = (level.clone() for level in features)
    for image in range(len(coarse)):
        order = torch.randperm(SIDE * SIDE, generator=generator)
        blocks = fine[image].view(-1, SIDE, 2, SIDE, 2).permute(1, 3, 0, 2, 4).flatten(0, 1)[order]
        fine[image] = blocks.view(SIDE, SIDE, -1, 2, 2).permute(2, 0, 3, 1, 4).reshape(fine[image].shape)
        coarse[image] = coarse[image].flatten(1)[:, order].view(coarse[image].shape)
    return [fine, coarse]


def test_images_of_one_scene_are_aligned() -> None:
    scene = pyramid(1, seed=0, side=SIDE)
    found = neighbours_of(repeated(scene, 8, noise=0.1, seed=1), repeated(scene, 3, noise=0.1, seed=2))
    assert (found.same_place, found.near_place) == (1.0, 1.0)
    assert found.aligned
    assert not found.surface


def test_cells_at_random_places_are_a_surface() -> None:
    scene = repeated(pyramid(1, seed=0, side=SIDE), 11, noise=0.1, seed=1)
    known, others = [level[:8] for level in scene], [level[8:] for level in scene]
    found = neighbours_of(shuffled(known, 2), shuffled(others, 3))
    assert found.same_place < 0.2
    assert not found.aligned
    assert found.surface


def test_background_that_is_the_same_everywhere_does_not_hide_a_moving_part() -> None:
    # Two thirds of the cells are a background with a pattern of its own at each place, the others the part's.
    scene = repeated(pyramid(1, seed=0, side=SIDE), 11, noise=0.05, seed=1)
    part = shuffled(repeated(pyramid(1, seed=5, side=SIDE), 11, noise=0.3, seed=6), 7)
    fine, coarse = scene
    fine[:, :, :, 8:], coarse[:, :, :, 4:] = part[0][:, :, :, 8:], part[1][:, :, :, 4:]
    found = neighbours_of([level[:8] for level in scene], [level[8:] for level in scene])
    assert found.near_place > 0.6
    assert not found.aligned
    assert not found.surface


def test_uneven_light_does_not_make_a_part_aligned() -> None:
    # One pattern in all cells, as on the surface of a screw at any angle; the brightness depends on the place alone.
    light = torch.linspace(0.2, 2.0, SIDE * SIDE).view(SIDE, SIDE)
    pattern = [level[:, :, :1, :1].repeat(11, 1, *level.shape[2:]) for level in pyramid(1, seed=0, side=SIDE)]
    generator = torch.Generator().manual_seed(1)
    fine, coarse = (level + 0.1 * torch.randn(level.shape, generator=generator) for level in pattern)
    scene = [fine * light.repeat_interleave(2, 0).repeat_interleave(2, 1), coarse * light]
    found = neighbours_of([level[:8] for level in scene], [level[8:] for level in scene], energy_floor=3.0)
    assert found.near_place > 0.5  # brightness is all that an energy floor leaves
    assert found.same_place < 0.2
    assert not found.aligned


@pytest.mark.parametrize(
    ("same", "near", "variant"),
    [
        (0.8, 0.9, BankVariant(0.3, 30.0, half_lloyd=True)),
        (0.2, 0.9, BankVariant(0.3)),
        (0.2, 0.3, BankVariant(0.3, half_lloyd=True)),
    ],
)
def test_aligned_parts_get_a_position_and_surfaces_moved_prototypes(
    same: float, near: float, variant: BankVariant
) -> None:
    own = Neighbours(0.0, 0.0, mean_distance=0.1)
    found = own.variant(0.3, place_weight=3.0, decisive=Neighbours(same, near, mean_distance=0.7))
    assert (found.energy_floor, found.half_lloyd, found.supported) == (0.3, variant.half_lloyd, 1.0)
    assert found.place_weight == pytest.approx(variant.place_weight)
