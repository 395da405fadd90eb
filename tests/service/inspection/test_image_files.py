import os
from pathlib import Path

import pytest

from service.inspection.image_files import console_text, find_image_files, path_text

LATIN_1 = os.fsdecode(b"tr\xfcb_01.png")


def create(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_image_files(folder)]


def test_images_of_all_sub_folders_are_found_without_hidden_ones(tmp_path: Path) -> None:
    wanted = ["a.jpg", "b/c.PNG", "b/d/e.tiff", "f.webp", "g.bmp", "h.JPEG", "i.tif"]
    hidden = ["._a.jpg", ".cache/x.png", "b/._c.PNG", "__MACOSX/._a.jpg"]
    create(*(tmp_path / name for name in [*wanted, *hidden, "notes.txt", "jpg", "folder.png/x.txt"]))
    assert names(tmp_path) == wanted


def test_folder_that_is_hidden_itself_is_searched(tmp_path: Path) -> None:
    create(tmp_path / ".images" / "a.png")
    assert names(tmp_path / ".images") == ["a.png"]


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    create(*(data / day / f"{n}.png" for day in ("monday", "tuesday") for n in range(3)))
    create(*(elsewhere / "deep" / f"{n}.png" for n in range(3)), tmp_path / "single.png")
    (data / "wednesday").symlink_to(elsewhere)
    (data / "one.png").symlink_to(tmp_path / "single.png")
    assert len(names(data)) == 10
    assert "wednesday/deep/0.png" in names(data)


def test_loops_end_and_no_folder_is_listed_twice(tmp_path: Path) -> None:
    create(tmp_path / "b" / "x.png", tmp_path / "y.png")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(".")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "c").symlink_to("d")
    (tmp_path / "d").symlink_to("c")
    assert names(tmp_path) == ["b/x.png", "y.png"]


def test_broken_links_are_listed_so_that_they_are_reported(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert names(tmp_path) == ["gone.png"]


def test_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        find_image_files(tmp_path / "missing")


def test_names_that_are_not_utf_8_are_found_and_printed(tmp_path: Path) -> None:
    create(tmp_path / LATIN_1)
    (found,) = find_image_files(tmp_path)
    assert found.name == LATIN_1
    assert path_text(Path("folder") / LATIN_1) == r"folder/tr\xfcb_01.png"
    assert path_text("Größe.png") == "Größe.png"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb.png", r"a\nb.png"),
        ("a\rb\tc.png", r"a\rb\tc.png"),
        ("\x1b[2J.png", r"\x1b[2J.png"),
        ("\x9b2J.png", r"\x9b2J.png"),
        ("a\u2028b.png", r"a\u2028b.png"),
        ("gnp.\u202exyz", r"gnp.\u202exyz"),
        (LATIN_1, r"tr\xfcb_01.png"),
        ("Größe 漢字 😀.png", "Größe 漢字 😀.png"),
    ],
)
def test_every_name_is_printed_as_one_line(name: str, shown: str) -> None:
    assert console_text(Path("folder") / name) == f"folder/{shown}"
