"""The energy floor is selected by faint synthetic anomalies in normal images alone."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.energy_floor import MapSource, select_energy_floor
from training.maps import PyramidDistance
from training.pixels import in_chunks


def map_pixels(anomaly_map: Callable[[Tensor], Tensor]) -> MapSource:
    """Return a source of maps that computes all of them from the pixels whenever they are requested."""
    return lambda images: lambda: map(anomaly_map, in_chunks(images))


def plain(count: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return np.asarray(np.clip(rng.normal(120, 4, (count, 64, 64, 3)), 0, 255), np.uint8)


def choose(maps: dict[float, Tensor | None]) -> tuple[float, list[float]]:
    """Select among floors whose maps are the deviation from the mean brightness, or the given constant."""
    distance, calibrated = PyramidDistance(1, 0.0), list[float]()

    def anomaly_map(pixels: Tensor) -> Tensor:
        given = maps[distance.energy_floor]
        deviation = (pixels - 120 / 255).abs().mean(1, keepdim=True)
        return deviation if given is None else deviation * 0 + given

    floor = select_energy_floor(
        [distance], lambda: calibrated.append(distance.energy_floor), map_pixels(anomaly_map), plain(4), tuple(maps)
    )
    assert distance.energy_floor == floor
    return floor, calibrated


def test_floor_that_localises_synthetic_anomalies_is_selected_at_any_position() -> None:
    constant = torch.zeros(())
    assert choose({0.0: constant, 0.3: None, 1.0: constant})[0] == 0.3
    assert choose({0.0: constant, 0.3: constant, 1.0: None})[0] == 1.0


def test_first_of_equally_good_floors_is_selected() -> None:
    assert choose({0.0: None, 0.3: None})[0] == 0.0


def test_constants_are_measured_for_every_floor_and_last_for_the_selected_one() -> None:
    floor, calibrated = choose({0.0: torch.zeros(()), 0.3: None, 1.0: torch.zeros(())})
    assert calibrated == [0.0, 0.3, 1.0, floor]


def test_single_floor_needs_no_evaluation() -> None:
    assert choose({0.3: torch.zeros(())}) == (0.3, [0.3])


def test_floors_are_evaluated_on_small_anomalies() -> None:
    seen: list[Tensor] = []
    distance, good = PyramidDistance(1, 0.0), plain(4)

    def anomaly_map(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return pixels.mean(1, keepdim=True)

    select_energy_floor([distance], lambda: None, map_pixels(anomaly_map), good, (0.0, 1.0))
    inputs = torch.cat(seen)
    synthetic = inputs[len(good) : len(inputs) // 2]
    clean = torch.from_numpy(good).permute(0, 3, 1, 2).float().repeat(len(synthetic) // len(good), 1, 1, 1) / 255
    changed = (synthetic != clean).any(1).float().mean((1, 2))
    assert len(synthetic) >= 90
    # The anomalies used for training cover up to a third of an image.
    assert 0 < float(changed.mean()) < 0.02
