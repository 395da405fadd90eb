"""Image files in folders, and their paths as text. Training and the command line use the same rules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def find_image_files(folder: Path) -> list[Path]:
    """List the image files below a folder, sorted, without hidden files and folders.

    Linked folders are followed. A folder that is reached twice, for example through a link to one of its parents, is
    listed once. Broken links are listed, so that the program that opens them reports their names.

    Args:
        folder: The folder. It may be hidden itself.

    Raises:
        OSError: A folder cannot be read.
    """
    return sorted(path for path in _files(folder, {_identity(folder)}) if _is_image(path))


def count_other_files(folder: Path) -> int:
    """Count the files below a folder that `find_image_files` passes over although they are not hidden.

    Args:
        folder: The folder.

    Raises:
        OSError: A folder cannot be read.
    """
    return sum(1 for path in _files(folder, {_identity(folder)}) if not _is_image(path))


def path_text(path: PurePath | str) -> str:
    r"""Return a path as text that can be printed and encoded. Bytes that are not UTF-8 become `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def console_text(text: PurePath | str) -> str:
    r"""Return a path, or a text with paths in it, as one line that can be printed.

    A file name may contain any character except `/`. Line breaks, control characters and invisible characters that
    change the direction of the text are written as escape sequences such as `\n` and `\x1b`; bytes that are not UTF-8
    become `\xNN`.
    """
    shown = path_text(text)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in shown)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and (path.is_file() or path.is_symlink())


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    # Real folders come first, so a folder that is linked as well is listed under its own path.
    for path in sorted(folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry)):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if (identity := _identity(path)) not in seen:
                seen.add(identity)
                yield from _files(path, seen)
        else:
            yield path


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
