"""The estimated shift between groups, with a random teacher and drawn images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.coarse_features import CoarseFeatures
from training.group_shift import MAX_GROUPS, MAX_IMAGES_EACH, choose_images, estimate_shift
from training.teachers import random_teacher


def draw(folder: Path, group: str, level: int, count: int = 8) -> list[Path]:
    paths = []
    for number in range(count):
        rng = np.random.default_rng((level, number))
        image = np.clip(rng.normal(level, 6, (48, 48, 3)), 0, 255).astype(np.uint8)
        paths.append(folder / f"{group}_{number}.png")
        cv2.imwrite(str(paths[-1]), image)
    return paths


@pytest.fixture(autouse=True)
def small_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.group_shift.PROTOTYPES", 64)


def test_group_unlike_the_others_is_found(tmp_path: Path) -> None:
    images = {"a": draw(tmp_path, "a", 100), "b": draw(tmp_path, "b", 101), "odd": draw(tmp_path, "odd", 220)}
    seen: list[int] = []

    shift = estimate_shift(CoarseFeatures(random_teacher("efficientnet_lite0"), 64), images, seen.append)

    assert (shift.groups, shift.images) == (3, 12)
    assert (shift.worst_group, shift.worst_rate) == ("odd", 1.0)
    assert shift.known_rate <= 1 / 13 + 1e-9
    assert shift.new_rate == pytest.approx(1 / 3, abs=0.2)
    assert seen == [1, 2, 3]


def test_groups_that_are_alike_show_little_shift(tmp_path: Path) -> None:
    images = {name: draw(tmp_path, name, level) for name, level in zip("abcd", (100, 101, 102, 103), strict=True)}

    assert estimate_shift(CoarseFeatures(random_teacher("efficientnet_lite0"), 64), images).new_rate < 0.4


def test_few_images_of_few_groups_are_chosen_evenly() -> None:
    paths = [Path(f"{group:02d}_{number:02d}.png") for group in range(30) for number in range(40)]
    chosen = choose_images(paths, [path.name[:2] for path in paths])

    assert len(chosen) == MAX_GROUPS
    assert {len(members) for members in chosen.values()} == {MAX_IMAGES_EACH}
    assert choose_images(paths[:40], ["all"] * 40) == {}
    assert choose_images(paths[:3], ["a", "b", "c"]) == {}, "single images show no shift"
