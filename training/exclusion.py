"""Good images that are left out of a training by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from service.inspection.image_files import path_text
from training.errors import InvalidOption

LIST_SUFFIX = ".txt"
OPTION = "--exclude"


def read_names(given: Sequence[str]) -> tuple[str, ...]:
    """Expand the values of `--exclude`: a `.txt` file is a list with one name per line, anything else is a name.

    Empty lines and lines that begin with `#` are skipped.

    Raises:
        InvalidOption: A list is not a UTF-8 text.
        OSError: A list cannot be read.
    """
    names = list[str]()
    for value in given:
        if not value.endswith(LIST_SUFFIX):
            names.append(value)
            continue
        try:
            lines = Path(value).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InvalidOption(OPTION, value, "a UTF-8 text with one image per line") from error
        names += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return tuple(names)


def find_excluded(names: Sequence[str], images: Sequence[Path], root: Path) -> set[Path]:
    """Find the images that are named.

    Args:
        names: Paths relative to `root` or to the working directory, or file names that only one image has.
        images: All good images.
        root: The folder of good images.

    Raises:
        InvalidOption: A name is no image, or more than one.
    """
    by_name: dict[str, set[Path]] = {}
    for path in images:
        for name in (path_text(path.relative_to(root)), path_text(path), path.name):
            by_name.setdefault(name, set()).add(path)
    found = set[Path]()
    for name in names:
        # A path relative to the folder takes precedence over an equal file name in a sub-folder.
        exact = root / name
        matches = {exact} if exact in images else by_name.get(name, set())
        if not matches:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InvalidOption(OPTION, repr(name), f"the name of a good image in {root}{hint}")
        if len(matches) > 1:
            folders = ", ".join(sorted(path_text(path.relative_to(root)) for path in matches))
            raise InvalidOption(OPTION, repr(name), f"a name with its folder, because there are {folders}")
        found |= matches
    return found
