"""The list of a fleet's products: a CSV file, as spreadsheet programs write it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.bundle.manifest import PRODUCT_NAME
from service.inspection.image_files import find_image_files, path_text
from service.schemas.violations import suggestion
from training.errors import InvalidProductList

REQUIRED = ("product", "data")
COLUMNS = (*REQUIRED, "settings")
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Problem:
    """What is wrong in a line.

    Attributes:
        line: Number of the line in the file, 1-based.
        reason: A sentence without a full stop.
    """

    line: int
    reason: str


@dataclass(frozen=True)
class ListedProduct:
    """A line of the list.

    Attributes:
        line: Its number in the file, 1-based.
        product: Name of the product.
        data: MVTec-layout folder or folder of good images.
        settings: TOML file with the settings of the training; None for those of the command.
    """

    line: int
    product: str
    data: Path
    settings: Path | None


def read_list(path: Path) -> tuple[list[ListedProduct], list[Problem]]:
    """Read a list and check every line.

    The columns are `product`, `data` and, optionally, `settings`, in any order, separated by commas, semicolons or
    tabs. Relative paths are relative to the folder of the list. Empty lines are ignored.

    Args:
        path: A CSV file in UTF-8, with or without a byte order mark.

    Returns:
        The correct lines and the problems of the others, in the order of the lines.

    Raises:
        InvalidProductList: The file cannot be read, its first line does not name the columns, or no line follows.
    """
    rows = _rows(path)
    try:
        _, first = next(rows)
    except StopIteration:
        raise InvalidProductList(path, ["it is empty"]) from None
    columns = [cell.strip().lower() for cell in first]
    _check_columns(path, columns)
    products: list[ListedProduct] = []
    problems: list[Problem] = []
    lines: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) > len(columns):
            reason = f"it has {len(cells)} cells, expected {len(columns)}; a cell with a separator in it needs quotes"
            problems.append(Problem(line, reason))
            continue
        given = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        found = _checked(line, given, path.parent, lines)
        problems += [each for each in found if isinstance(each, Problem)]
        products += [each for each in found if isinstance(each, ListedProduct)]
    if not (products or problems):
        raise InvalidProductList(path, ["no product follows the line with the names of the columns"])
    return products, problems


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not empty, with the numbers of their first lines in the file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidProductList(path, [f"it cannot be read ({error.strerror})"]) from error
    if len(content) > MAX_BYTES:
        raise InvalidProductList(path, [f"it is larger than {MAX_BYTES} bytes"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = f"line {line} is not UTF-8; save it as 'CSV UTF-8'"
        raise InvalidProductList(path, [reason]) from error
    head = text.lstrip("\r\n").partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    before = 0
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield before + 1, cells
            before = reader.line_num
    except csv.Error as error:
        raise InvalidProductList(path, [f"line {before + 1} is not CSV: {error}"]) from error


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    reasons = [f"the column {name!r} is missing" for name in REQUIRED if name not in columns]
    for name in dict.fromkeys(columns):
        if name not in COLUMNS:
            reasons.append(f"there is no column {name!r} {suggestion(name, COLUMNS)}".rstrip())
        elif columns.count(name) > 1:
            reasons.append(f"the column {name!r} is there more than once")
    if reasons:
        raise InvalidProductList(path, [f"line 1 must name the columns {', '.join(COLUMNS)}: {'; '.join(reasons)}"])


def _checked(
    line: int, given: dict[str, str], folder: Path, lines: dict[str, int]
) -> list[Problem] | list[ListedProduct]:
    """Return the product of a line, or what is wrong with it."""
    reasons = []
    product, data, settings = (given.get(name, "") for name in COLUMNS)
    if not PRODUCT_NAME.fullmatch(product):
        expected = "1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit"
        reasons.append(f"the product name is {product!r}, expected {expected}")
    elif product in lines:
        reasons.append(f"the product {product} is in line {lines[product]} already")
    else:
        lines[product] = line
    if not data:
        reasons.append("the data folder is missing")
    elif reason := _no_images(folder / data):
        reasons.append(reason)
    if settings and not (folder / settings).is_file():
        reasons.append(f"the settings file {path_text(folder / settings)} does not exist")
    if reasons:
        return [Problem(line, "; ".join(reasons))]
    return [ListedProduct(line, product, folder / data, folder / settings if settings else None)]


def _no_images(folder: Path) -> str | None:
    """Return why a folder cannot be trained on, None if it holds images. How many are enough depends on the method."""
    if not folder.is_dir():
        return f"the data folder {path_text(folder)} does not exist"
    try:
        return None if find_image_files(folder) else f"the data folder {path_text(folder)} holds no image files"
    except OSError as error:
        return f"the data folder {path_text(folder)} cannot be read ({error.strerror})"
