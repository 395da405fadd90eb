"""Names of images become paths that keep the capture group and never leave the folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from plumbline_client.schemas.training import TrainingImageRecord
from service.inspection.capture_groups import group_images
from training.worker.images import image_path, is_complete, write_image


def image(name: str, number: int = 7, data: bytes = b"data") -> TrainingImageRecord:
    digest = hashlib.sha256(data).hexdigest()
    return TrainingImageRecord(number=number, name=name, media_type="image/png", size_bytes=len(data), sha256=digest)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("good.png", "good-7.png"),
        ("2026-03-01/019a.raw", "2026-03-01/019a-7.png"),
        ("lot 2/a.b.jpeg", "lot 2/a.b-7.png"),
        ("../../etc/passwd", "etc/passwd-7.png"),
        ("/etc/passwd", "etc/passwd-7.png"),
        ("C:\\parts\\1.bmp", "C_/parts/1-7.png"),
        ("..", "image-7.png"),
        ("7", "7-7.png"),
        (".hidden/.x", "hidden/x-7.png"),
        ("a\0b\n.png", "a_b_-7.png"),
    ],
)
def test_name_becomes_a_path_in_the_folder(name: str, expected: str, tmp_path: Path) -> None:
    path = image_path(tmp_path, image(name))
    assert path == tmp_path / expected
    assert tmp_path in path.resolve().parents


def test_images_of_the_same_name_have_different_paths(tmp_path: Path) -> None:
    assert image_path(tmp_path, image("a.png", 1)) != image_path(tmp_path, image("a.png", 2))


def test_days_of_stored_inspections_are_capture_groups(tmp_path: Path) -> None:
    names = [f"2026-03-0{day}/{number:08d}-0000-7000-8000-000000000000" for day in (1, 2) for number in range(6)]
    paths = [image_path(tmp_path, image(name, number)) for number, name in enumerate(names, 1)]
    grouping = group_images([path.relative_to(tmp_path) for path in paths])
    assert set(grouping.names) == {"2026-03-01", "2026-03-02"}


def test_incomplete_file_is_not_taken_for_the_image(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "1.png"
    assert not is_complete(path, image("1.png"))
    write_image(path, b"dat")
    assert not is_complete(path, image("1.png"))
    write_image(path, b"data")
    assert is_complete(path, image("1.png"))
    assert [file.name for file in path.parent.iterdir()] == ["1.png"]
