"""What benchmarks of existing bundles share: find the bundles, and keep a row of figures for each in a JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

from service.bundle.bundle import Bundle
from service.bundle.manifest import MANIFEST
from training.files import write_text


@dataclass(frozen=True)
class BundleRow:
    """A row of figures of one bundle; subclasses add the figures.

    Attributes:
        category: Name of the product and of the data folder.
        method: Registry name of the method.
        seed: Seed of the training.
    """

    category: str
    method: str
    seed: int


class Identity(TypedDict):
    """The fields of `BundleRow`."""

    category: str
    method: str
    seed: int


RowT = TypeVar("RowT", bound=BundleRow)


def identity(bundle: Bundle) -> Identity:
    """Return the fields of `BundleRow` for a bundle."""
    manifest = bundle.manifest
    return {"category": manifest.product, "method": manifest.method, "seed": manifest.training.seed}


class StoredRows(Generic[RowT]):
    """Rows by the digest of their bundle, in a JSON file: a second start measures only bundles that are new.

    Args:
        path: The file. Its folder is created with the first row.
        kind: The class of the rows.
    """

    def __init__(self, path: Path, kind: type[RowT]) -> None:
        self._path = path
        self.rows: dict[str, RowT] = {}
        if path.is_file():
            self.rows = {digest: kind(**row) for digest, row in json.loads(path.read_text()).items()}

    def add(self, bundle: Bundle, row: RowT) -> None:
        """Add the row of a bundle and write the file."""
        self.rows[bundle.digest] = row
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps({key: asdict(one) for key, one in self.rows.items()}, indent=2) + "\n")


def fp32_bundles(folder: Path) -> Iterator[Bundle]:
    """Yield the fp32 bundles in all sub-folders, sorted by path."""
    for path in sorted(folder.rglob(MANIFEST)):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            bundle = Bundle.load(path.parent)
            if bundle.manifest.precision == "fp32":
                yield bundle


def table_head(names: Sequence[str]) -> list[str]:
    """Return the two lines that begin a table in Markdown."""
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
