"""Defective images among the good ones are found by their distance to all other images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.training.small_product import plate, write_plates
from training import coarse_features
from training.coarse_features import CoarseFeatures
from training.dataset import scan
from training.image_check import check as module
from training.image_check.check import (
    CheckedImage,
    ImageCheck,
    check_images,
    describe_suspected,
    leave_one_out,
    limit_of,
)
from training.teachers import Teacher, load_teacher, random_teacher


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def test_planted_defective_images_are_suspected_and_good_ones_are_not(tmp_path: Path) -> None:
    good = [write(tmp_path / f"{number:02d}.png", plate(number)[0]) for number in range(38)]
    planted = [write(tmp_path / f"planted{number}.png", plate(300 + number, spots=2)[0]) for number in range(2)]
    seen: list[int] = []
    check = check_images(CoarseFeatures(load_teacher("efficientnet_lite0")), sorted([*good, *planted]), seen.append)
    assert {image.path for image in check.images[:2]} == set(planted)
    assert set(check.suspected) >= set(planted)
    assert len(check.suspected) <= 4  # two of 38 good images, at most
    assert [image.distance for image in check.images] == sorted((i.distance for i in check.images), reverse=True)
    assert seen[-1] == 40


def test_many_images_are_compared_in_parts_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{number:02d}.png", plate(number)[0]) for number in range(20)]
    planted = write(tmp_path / "07_planted.png", plate(300, spots=2)[0])
    monkeypatch.setattr(module, "MAX_TOGETHER", 7)
    features = CoarseFeatures(random_teacher("efficientnet_lite0"), 64)
    together: list[int] = []
    compute = features.of

    def of(part: Sequence[Path], progress: Callable[[int], None] | None = None) -> torch.Tensor:
        together.append(len(part))
        return compute(part, progress)

    monkeypatch.setattr(features, "of", of)
    seen: list[int] = []
    check = check_images(features, sorted([*paths, planted]), seen.append)
    assert together == [7, 7, 7]
    assert seen == [7, 14, 21]
    assert {image.path for image in check.images} == {*paths, planted}
    assert check.images[0].path == planted


def test_descriptors_of_some_images_only_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{number:02d}.png", plate(number)[0]) for number in range(5)]
    monkeypatch.setattr(coarse_features, "MAX_KEPT", 3)
    features = CoarseFeatures(random_teacher("efficientnet_lite0"), 64)
    first = features.of(paths)
    computed: list[int] = []
    compute = coarse_features.coarse_descriptors

    def counting(teacher: Teacher, images: np.ndarray) -> torch.Tensor:
        computed.append(len(images))
        return compute(teacher, images)

    monkeypatch.setattr(coarse_features, "coarse_descriptors", counting)
    assert torch.allclose(features.of(paths), first, atol=1e-5)
    assert computed == [2]


def test_most_distant_place_is_that_of_the_defect(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number:02d}.png", plate(number)[0]) for number in range(12)]
    image = plate(50)[0]
    image[10:24, 50:66] = np.random.default_rng(0).integers(0, 255, (14, 16, 3))
    paths.append(write(tmp_path / "defective.png", image))
    first = check_images(CoarseFeatures(load_teacher("efficientnet_lite0")), paths).images[0]
    assert first.path.name == "defective.png"
    assert abs(first.place[0] - 17 / 72) < 0.15
    assert abs(first.place[1] - 58 / 80) < 0.15


def test_distances_are_those_of_an_exhaustive_search_without_the_image_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOP_FRACTION", 0.2)
    cells = torch.randn(5, 10, 4, generator=torch.Generator().manual_seed(0))
    distances, worst = leave_one_out(cells, torch.Generator().manual_seed(0))
    for number in range(5):
        others = torch.cat([cells[:number], cells[number + 1 :]]).flatten(0, 1)
        exact = 0.5 * torch.cdist(cells[number], others).amin(1).square()
        assert distances[number] == pytest.approx(float(exact.topk(2).values.mean()), rel=1e-4)
        assert worst[number] == int(exact.argmax())


def test_no_more_cells_are_compared_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = torch.randn(6, 10, 4, generator=torch.Generator().manual_seed(0))
    full, _ = leave_one_out(cells, torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "MAX_PRODUCTS", 12 * 60)  # two cells of each image
    sparse, _ = leave_one_out(cells, torch.Generator().manual_seed(0))
    assert all(few > all_of_them for few, all_of_them in zip(sparse, full, strict=True))


def test_most_distant_cells_are_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = torch.randn(6, 40, 4, generator=torch.Generator().manual_seed(0))
    cells[2, 5] += 9
    full, where = leave_one_out(cells, torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "MAX_KNOWN", 12)
    monkeypatch.setattr(module, "REFINED", 10)
    found, again = leave_one_out(cells, torch.Generator().manual_seed(0))
    assert (where[2], again[2]) == (5, 5)
    assert found[2] == pytest.approx(full[2], rel=1e-4)


@pytest.mark.parametrize("count", [0, 1])
def test_single_image_has_no_distance(count: int) -> None:
    assert leave_one_out(torch.ones(count, 4, 3), torch.Generator()) == ([0.0] * count, [0] * count)


def test_limit_is_not_moved_by_a_tenth_of_outliers() -> None:
    ordinary = np.random.default_rng(0).normal(1.0, 0.05, 900)
    alone, together = limit_of(list(ordinary)), limit_of([*ordinary, *[9.0] * 90])
    assert 0.001 < (ordinary > alone).mean() < 0.02
    assert (ordinary > together).mean() > 0.001
    assert alone < together < 1.3
    assert limit_of([0.1] * 7) == float("inf")


def test_images_that_are_all_but_equal_are_not_suspected() -> None:
    for distance in (0.0, 0.1):
        distances = [distance * (1 + 1e-6 * number) for number in range(9)]
        assert max(distances) <= limit_of(distances)


def test_warning_names_suspected_images_and_what_to_do(tmp_path: Path) -> None:
    data = scan(write_plates(tmp_path / "my plates"))
    paths = [*data.train, *data.held_out]

    def check_of(suspected: int) -> ImageCheck:
        images = [CheckedImage(path, 1.0, (0.5, 0.5), number < suspected) for number, path in enumerate(paths)]
        return ImageCheck(tuple(images), 0.5)

    assert describe_suspected(check_of(0), data) is None
    warning = describe_suspected(check_of(12), data)
    assert warning is not None
    assert f"{paths[0].name}, {paths[1].name}" in warning
    assert "and 2 more" in warning
    assert f"--data '{data.root}'" in warning
    assert "--exclude" in warning
