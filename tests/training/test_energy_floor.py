"""The energy floor is chosen by painted defects in good images, and by nothing else."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.energy_floor import choose_floor
from training.maps import PyramidDistance


def plain(count: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return np.asarray(np.clip(rng.normal(120, 4, (count, 64, 64, 3)), 0, 255), np.uint8)


def choose(maps: dict[float, Tensor | None]) -> tuple[float, list[float]]:
    """Chooses among floors whose maps are the image's brightness, or what is given instead."""
    distance, calibrated = PyramidDistance(1, 0.0), list[float]()

    def anomaly_map(pixels: Tensor) -> Tensor:
        given = maps[distance.floor]
        deviation = (pixels - 120 / 255).abs().mean(1, keepdim=True)
        return deviation if given is None else deviation * 0 + given

    floor = choose_floor([distance], lambda: calibrated.append(distance.floor), anomaly_map, plain(4), tuple(maps))
    assert distance.floor == floor
    return floor, calibrated


def test_floor_that_shows_painted_defects_wins_wherever_it_stands() -> None:
    blind = torch.zeros(())
    assert choose({0.0: blind, 0.3: None, 1.0: blind})[0] == 0.3
    assert choose({0.0: blind, 0.3: blind, 1.0: None})[0] == 1.0


def test_first_of_equals_wins() -> None:
    assert choose({0.0: None, 0.3: None})[0] == 0.0


def test_constants_are_measured_for_every_floor_and_last_for_the_chosen_one() -> None:
    floor, calibrated = choose({0.0: torch.zeros(()), 0.3: None, 1.0: torch.zeros(())})
    assert calibrated == [0.0, 0.3, 1.0, floor]


def test_single_floor_is_taken_without_a_search() -> None:
    assert choose({0.3: torch.zeros(())}) == (0.3, [0.3])


def test_floors_are_judged_by_small_defects() -> None:
    seen: list[Tensor] = []
    distance, good = PyramidDistance(1, 0.0), plain(4)

    def anomaly_map(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return pixels.mean(1, keepdim=True)

    choose_floor([distance], lambda: None, anomaly_map, good, (0.0, 1.0))
    shown = torch.cat(seen)
    painted = shown[len(good) : len(shown) // 2]
    clean = torch.from_numpy(good).permute(0, 3, 1, 2).float().repeat(len(painted) // len(good), 1, 1, 1) / 255
    changed = (painted != clean).any(1).float().mean((1, 2))
    assert len(painted) >= 90
    # Those to learn from cover up to a third of an image.
    assert 0 < float(changed.mean()) < 0.02
