"""Names of the images that are sent: those of good images keep the folders that tell their days and lots."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline_client.calls import ImageSource, read_good_images, read_images


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["good/day 1/a.png", "good/day 2/a.png"], ["day 1/a.png", "day 2/a.png"]),
        (["good/a.png", "good/lot/b.png"], ["a.png", "lot/b.png"]),
        (["good/a.png", "good/b.png"], ["a.png", "b.png"]),
        (["good/a.png"], ["a.png"]),
    ],
)
def test_folders_are_kept_below_the_common_one(files: list[str], names: list[str], tmp_path: Path) -> None:
    paths = [tmp_path / file for file in files]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    assert read_good_images(paths) == [(name, path.name.encode()) for name, path in zip(names, paths, strict=True)]
    assert [name for name, _ in read_images(paths)] == [path.name for path in paths]


def test_given_names_stay(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"2")
    images: list[ImageSource] = [("day/a.png", b"1"), tmp_path / "b.png"]
    assert read_good_images(images) == [("day/a.png", b"1"), ("b.png", b"2")]
    assert read_good_images(images[:1]) == [("day/a.png", b"1")]
    assert read_good_images([]) == []
