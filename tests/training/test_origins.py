"""Origins of prototypes: the right images and places, within the limit of bytes, with the days that files state."""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from service.bundle.manifest import BankTensors, Explanation, SourceTensors
from service.bundle.origins import MAX_ORIGINS_BYTES, Origins
from service.inspection.decoding.decoder import ImageLimits, decode
from training.memory_bank import MemoryBank
from training.origins import collect_origins, describe_file
from training.places import ViewPlace

SIDE = 64


class _Method(nn.Module):
    """A method with one memory bank, whose prototypes come from the given views."""

    def __init__(self, views: list[int], rows: int = 4) -> None:
        super().__init__()
        self.bank = MemoryBank([1, 1], len(views))
        cells = torch.arange(len(views)) % rows
        self.bank.origins = torch.stack([torch.tensor(views), cells, cells.flip(0)], 1)


def explanation(prototypes: int) -> Explanation:
    bank = BankTensors(
        name="bank", candidates="c", nearest="highest", distances="d", rows=4, columns=4, prototypes=prototypes
    )
    return Explanation(total="t", sources=[SourceTensors(name="bank", tensor="s")], banks=[bank])


def write_images(folder: Path, count: int, noise: int = 0) -> tuple[list[Path], NDArray[np.uint8]]:
    """Write images of 128 x 64 pixels, each of its own gray value, and return the views of 64 x 64 pixels."""
    rng = np.random.default_rng(0)
    paths, views = [], []
    for number in range(count):
        paths.append(folder / f"part-{number}.png")
        image = np.full((SIDE, 2 * SIDE, 3), 10 + 2 * number, np.uint8) + rng.integers(
            0, noise + 1, (SIDE, 2 * SIDE, 3), np.uint8
        )
        assert cv2.imwrite(str(paths[-1]), image)
        views.append(cv2.resize(image[..., ::-1], (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return paths, np.stack(views)


def collect(
    method: _Method, paths: list[Path], views: NDArray[np.uint8], *, limit_bytes: int = MAX_ORIGINS_BYTES,
    places: list[ViewPlace] | None = None, is_augmented: bool = False,
) -> Origins:  # fmt: skip
    count = len(method.bank.origins)
    found = collect_origins(
        method,
        explanation(count),
        views,
        [ViewPlace(number) for number in range(len(paths))] if places is None else places,
        paths,
        [(2 * SIDE, SIDE)] * len(paths),
        paths[0].parent,
        is_augmented=is_augmented,
        limit_bytes=limit_bytes,
    )
    assert found is not None
    data = found.to_bytes()
    assert len(data) <= limit_bytes
    return Origins.from_bytes(data, explanation(count).banks)


def copies(origins: Origins) -> list[NDArray[np.uint8] | None]:
    jpegs = [origins.jpeg_of(view) for view in origins.index.views]
    return [None if jpeg is None else decode(jpeg, ImageLimits()) for jpeg in jpegs]


def test_prototypes_keep_view_and_place_and_only_their_images_are_stored(tmp_path: Path) -> None:
    paths, views = write_images(tmp_path, 9)
    owners = [7, 2, 7, 5, 2]
    method = _Method(owners)
    origins = collect(method, paths, views)
    assert [image.name for image in origins.index.images] == ["part-2.png", "part-5.png", "part-7.png"]
    for prototype, (view, row, column) in enumerate(origins.banks["bank"]):
        image = origins.index.images[origins.index.views[view].image]
        assert image.name == f"part-{owners[prototype]}.png"
        assert image.sha256 == hashlib.sha256(paths[owners[prototype]].read_bytes()).hexdigest()
        assert (image.width, image.height) == (128, 64)
        assert [row, column] == method.bank.origins[prototype, 1:].tolist()
    for view, copy in zip(origins.index.views, copies(origins), strict=True):
        number = int(origins.index.images[view.image].name[5])
        assert copy is not None
        assert copy.shape == (32, 64, 3), "the shape of the image, not that of the network's input"
        assert copy.mean() == pytest.approx(10 + 2 * number, abs=1)
        assert list(view.box) == [0, 0, 1, 1]
        assert not view.augmented


def test_augmented_views_belong_to_their_images(tmp_path: Path) -> None:
    paths, views = write_images(tmp_path, 3)
    origins = collect(_Method([4, 1, 5]), paths, np.concatenate([views, views + 100]), is_augmented=True)
    names = [origins.index.images[view.image].name for view in origins.index.views]
    assert names == ["part-1.png", "part-1.png", "part-2.png"]
    assert [round(copy.mean()) for copy in copies(origins) if copy is not None] == [12, 112, 114]
    assert all(view.augmented for view in origins.index.views)


def test_tiles_keep_their_place_and_shape(tmp_path: Path) -> None:
    paths, views = write_images(tmp_path, 2)
    places = [ViewPlace(1, (0.5, 0.0, 0.5, 1.0)), ViewPlace(0, (0.0, 0.0, 0.5, 1.0))]
    origins = collect(_Method([0, 1, 1]), paths, views, places=places)
    assert [origins.index.images[view.image].name for view in origins.index.views] == ["part-1.png", "part-0.png"]
    assert [view.box for view in origins.index.views] == [place.box for place in places]
    assert {copy.shape for copy in copies(origins) if copy is not None} == {(64, 64, 3)}


def test_copies_become_smaller_where_there_are_many(tmp_path: Path) -> None:
    paths, views = write_images(tmp_path, 100, noise=40)
    large = np.stack([cv2.resize(view, (256, 256), interpolation=cv2.INTER_NEAREST) for view in views])
    method = _Method(list(range(100)))
    sides = []
    for limit in (MAX_ORIGINS_BYTES, 400_000, 150_000):
        shapes = {copy.shape for copy in copies(collect(method, paths, large, limit_bytes=limit)) if copy is not None}
        (shape,) = shapes
        sides.append(max(shape))
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == 256, "never enlarged"
    assert sides[-1] < 256


def test_images_with_few_prototypes_are_left_out_where_not_all_fit(tmp_path: Path) -> None:
    paths, views = write_images(tmp_path, 40, noise=60)
    owners = [number for number in range(40) for _ in range(1 + (number < 5))]
    limit = 14_000
    origins = collect(_Method(owners), paths, views, limit_bytes=limit)
    stored = [copy is not None for copy in copies(origins)]
    assert all(stored[:5]), "those with two prototypes"
    assert not all(stored)
    assert len(origins.index.views) == 40, "their names and places are stored nevertheless"


def test_nothing_is_stored_where_not_even_the_list_fits_or_no_origin_is_known(tmp_path: Path) -> None:
    paths, views = write_images(tmp_path, 4)
    method = _Method([0, 1, 2, 3])
    arguments = ([ViewPlace(number) for number in range(4)], paths, [(128, 64)] * 4, tmp_path)
    assert collect_origins(method, explanation(4), views, *arguments, limit_bytes=2000) is None
    assert collect_origins(method, None, views, *arguments) is None
    assert collect_origins(nn.Sequential(), explanation(4).model_copy(update={"banks": []}), views, *arguments) is None
    method.bank.origins = method.bank.origins[:0]
    assert collect_origins(method, explanation(4), views, *arguments) is None


def jpeg(path: Path, taken: str | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("a.jpg", "2026:03:04 05:06:07", (date(2026, 3, 4), "file")),
        ("2025-01-02/a.jpg", "2026:03:04 05:06:07", (date(2026, 3, 4), "file")),
        ("2025-01-02/a.jpg", None, (date(2025, 1, 2), "name")),
        ("2025-01-02/a_20250203.jpg", "0000:00:00 00:00:00", (date(2025, 2, 3), "name")),
        ("a_20250230.jpg", None, (None, None)),
        ("a.jpg", "   ", (None, None)),
        ("a.jpg", None, (None, None)),
    ],
)
def test_day_is_the_one_that_the_file_or_its_name_states(
    tmp_path: Path, name: str, taken: str | None, expected: tuple[date | None, str | None]
) -> None:
    found = describe_file(jpeg(tmp_path / name, taken), tmp_path, (20, 10))
    assert (found.captured_on, found.dated_by) == expected
    assert found.name == name


def test_damaged_metadata_is_not_an_error(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "a.jpg", "2026:03:04 05:06:07")
    data = path.read_bytes()
    place = data.index(b"Exif\0\0") + 6
    path.write_bytes(data[:place] + b"\xff" * 40 + data[place + 40 :])
    assert describe_file(path, tmp_path, (20, 10)).captured_on is None
    text = tmp_path / "b.png"
    text.write_bytes(b"no image")
    assert describe_file(text, tmp_path, (20, 10)).captured_on is None
