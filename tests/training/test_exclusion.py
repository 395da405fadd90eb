"""Good images are left out by their name; a name that is not clear is refused."""

from pathlib import Path

import pytest

from training.errors import InvalidOption
from training.exclusion import find_excluded, read_names


def images(root: Path, *names: str) -> list[Path]:
    return [root / name for name in names]


def test_images_are_named_by_file_name_relative_path_or_path(tmp_path: Path) -> None:
    found = images(tmp_path, "a.png", "lot1/b.png", "lot2/c.png", "lot2/a b.png")
    names = ["a.png", "lot1/b.png", "c.png", str(tmp_path / "lot2/a b.png")]
    assert find_excluded(names, found, tmp_path) == set(found)
    assert find_excluded([], found, tmp_path) == set()


def test_name_in_several_folders_needs_its_folder(tmp_path: Path) -> None:
    found = images(tmp_path, "lot1/a.png", "lot2/a.png")
    with pytest.raises(InvalidOption, match=r"'a\.png'.*lot1/a\.png, lot2/a\.png"):
        find_excluded(["a.png"], found, tmp_path)
    assert find_excluded(["lot2/a.png"], found, tmp_path) == {tmp_path / "lot2/a.png"}
    # An image in the folder itself is what its plain name means.
    assert find_excluded(["a.png"], [*found, tmp_path / "a.png"], tmp_path) == {tmp_path / "a.png"}


def test_unknown_name_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"'part_01\.png'.*did you mean 'part_10\.png'"):
        find_excluded(["part_01.png"], images(tmp_path, "part_10.png", "x.jpg"), tmp_path)
    with pytest.raises(InvalidOption, match="the name of a good image"):
        find_excluded(["zzz"], images(tmp_path, "part_10.png"), tmp_path)


def test_text_file_is_a_list_of_names(tmp_path: Path) -> None:
    listed = tmp_path / "suspected.txt"
    listed.write_text("# checked on Monday\na.png\n\n  lot 1/b.png \r\n", encoding="utf-8")
    assert read_names(["first.png", str(listed), "last.png"]) == ("first.png", "a.png", "lot 1/b.png", "last.png")


def test_list_that_is_not_text_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "suspected.txt"
    listed.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(InvalidOption, match="UTF-8"):
        read_names([str(listed)])
    with pytest.raises(FileNotFoundError):
        read_names([str(tmp_path / "missing.txt")])
