"""Names of images become paths that keep the capture group and never leave the folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from plumbline_client.schemas.training import TrainingImageRecord
from service.inspection.capture_groups import group_images
from training.worker.images import image_paths, is_complete, write_image


def image(name: str, number: int = 7, data: bytes = b"data") -> TrainingImageRecord:
    digest = hashlib.sha256(data).hexdigest()
    return TrainingImageRecord(number=number, name=name, media_type="image/png", size_bytes=len(data), sha256=digest)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("good.png", "good.png"),
        ("2026-03-01/019a.raw", "2026-03-01/019a.png"),
        ("lot 2/a.b.jpeg", "lot 2/a.b.png"),
        ("../../etc/passwd", "etc/passwd.png"),
        ("/etc/passwd", "etc/passwd.png"),
        ("C:\\parts\\1.bmp", "C_/parts/1.png"),
        ("..", "image.png"),
        ("7", "7.png"),
        (".hidden/.x", "hidden/x.png"),
        ("a\0b\n.png", "a_b_.png"),
    ],
)
def test_name_becomes_a_path_in_the_folder(name: str, expected: str, tmp_path: Path) -> None:
    (path,) = image_paths(tmp_path, [image(name)])
    assert path == tmp_path / expected
    assert tmp_path in path.resolve().parents


def test_images_of_the_same_name_have_different_paths(tmp_path: Path) -> None:
    names = ["a.png", "a.bmp", "A.png", "a-2.png", "b/a.png"]
    paths = image_paths(tmp_path, [image(name, number) for number, name in enumerate(names, 1)])
    found = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert found == ["a.png", "a-2.png", "A-3.png", "a-2-4.png", "b/a.png"]


def test_long_name_in_any_script_can_be_written(tmp_path: Path) -> None:
    (path,) = image_paths(tmp_path, [image("\u90e8" * 128 + "/" + "\u54c1" * 128)])
    write_image(path, b"data")
    assert path.read_bytes() == b"data"


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ([f"2026-03-0{day}/{number:08d}-0000-7000-8000-000000000000" for day in (1, 2) for number in range(6)],
         {"2026-03-01", "2026-03-02"}),
        ([f"{lot}{number}.png" for lot in ("lotA", "lotB") for number in range(6)], {"lotA", "lotB"}),
    ],
)  # fmt: skip
def test_capture_groups_are_those_of_the_names(names: list[str], groups: set[str], tmp_path: Path) -> None:
    paths = image_paths(tmp_path, [image(name, number) for number, name in enumerate(names, 1)])
    grouping = group_images([path.relative_to(tmp_path) for path in paths])
    assert set(grouping.names) == groups


def test_incomplete_file_is_not_taken_for_the_image(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "1.png"
    assert not is_complete(path, image("1.png"))
    write_image(path, b"dat")
    assert not is_complete(path, image("1.png"))
    write_image(path, b"data")
    assert is_complete(path, image("1.png"))
    assert [file.name for file in path.parent.iterdir()] == ["1.png"]
