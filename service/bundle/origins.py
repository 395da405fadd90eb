"""Where the prototypes of a bundle's memory banks come from: reduced copies of the good images that contain them.

`origins.npz` is optional. It has the arrays

| array       | content                                                                                      |
|-------------|----------------------------------------------------------------------------------------------|
| `index`     | uint8, a JSON document: the images and the views of them                                     |
| `jpegs`     | uint8, the JPEG files of the views, one after the other                                      |
| `bank_NAME` | int32 [prototypes, 3], for each prototype of the memory bank: index of the view, row, column |

A view is what the network saw in training: an image, or a tile of it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from service.bundle.arrays import ArrayForm, read_npz
from service.bundle.images import Sha256
from service.bundle.manifest import SCHEMA_VERSION, BankTensors, BundleRecord
from service.schemas.violations import list_violations

MAX_ORIGINS_BYTES = 2 * 2**20
"""Most bytes of `origins.npz`."""
MAX_INDEX_BYTES = 4 * 2**20
"""Most bytes of the index, unpacked."""
_FORMS = {
    "index": ArrayForm((MAX_INDEX_BYTES,), np.dtype(np.uint8), may_be_shorter=True),
    "jpegs": ArrayForm((MAX_ORIGINS_BYTES,), np.dtype(np.uint8), may_be_shorter=True),
}

Places = npt.NDArray[np.int32]


class OriginImage(BundleRecord):
    """An image that prototypes come from.

    Attributes:
        name: Name of the file, relative to the folder of good images.
        sha256: SHA-256 (hex) of the file.
        width: Width in pixels.
        height: Height in pixels.
        captured_on: The day on which it was taken; None if neither the file nor its name states it.
        dated_by: What states the day: the metadata of the file (EXIF) or its name.
    """

    name: str = Field(min_length=1, max_length=1024)
    sha256: Sha256
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    captured_on: date | None = None
    dated_by: Literal["file", "name"] | None = None

    @model_validator(mode="after")
    def _check_date(self) -> Self:
        if (self.captured_on is None) != (self.dated_by is None):
            raise ValueError("captured_on and dated_by belong together")
        return self


class OriginView(BundleRecord):
    """A view of an image that the network saw in training.

    Attributes:
        image: Index of the image.
        box: Place of the view in the image: left, top, width and height, relative to the sides of the image. A tile at
            the border may extend beyond the image.
        augmented: Whether training rotated, moved or brightened the view.
        start: Position of its JPEG file in `jpegs`.
        bytes: Size of its JPEG file; 0 if it is not stored, because there were too many.
    """

    image: int = Field(ge=0)
    box: tuple[float, float, float, float]
    augmented: bool = False
    start: int = Field(ge=0)
    bytes: int = Field(ge=0)


class OriginIndex(BundleRecord):
    """Content of `index`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    images: list[OriginImage]
    views: list[OriginView]

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if any(view.image >= len(self.images) for view in self.views):
            raise ValueError("a view belongs to an image that is not listed")
        return self


@dataclass(frozen=True)
class Origins:
    """The content of `origins.npz`.

    Attributes:
        index: The images and their views.
        jpegs: The JPEG files of the views.
        banks: int32 [prototypes, 3] for each memory bank by name: index of the view, row and column of the cell.
    """

    index: OriginIndex
    jpegs: bytes
    banks: Mapping[str, Places]

    def jpeg_of(self, view: OriginView) -> bytes | None:
        """Return the reduced copy of a view as a JPEG file; None if it is not stored."""
        return self.jpegs[view.start : view.start + view.bytes] or None

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "index": np.frombuffer(self.index.model_dump_json().encode(), np.uint8),
            "jpegs": np.frombuffer(self.jpegs, np.uint8),
            **{_array_name(name): places for name, places in self.banks.items()},
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, banks: list[BankTensors]) -> Origins:
        """Read the content of the file, which is not trusted; see `read_npz`. JPEG files are not decoded.

        Args:
            data: The content of the file.
            banks: The memory banks that the manifest states.

        Raises:
            ValueError: The content is something else. The text completes a sentence.
        """
        named = {_array_name(bank.name): bank for bank in banks}
        forms = {name: ArrayForm((bank.prototypes, 3), np.dtype(np.int32)) for name, bank in named.items()}
        arrays = read_npz(data, forms | _FORMS, forms.keys() | _FORMS.keys())
        try:
            index = OriginIndex.model_validate_json(arrays["index"].tobytes())
        except ValidationError as error:
            first = list_violations(error, OriginIndex)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise ValueError(f"index: {where[:200]}: {first['msg'][:200]}.") from error
        jpegs = arrays["jpegs"].tobytes()
        if any(view.start + view.bytes > len(jpegs) for view in index.views):
            raise ValueError("a view extends beyond the end of jpegs.npy.")
        for name, bank in named.items():
            limits = np.array([len(index.views), bank.rows, bank.columns])
            if not ((arrays[name] >= 0) & (arrays[name] < limits)).all():
                raise ValueError(f"{name}.npy refers to a view or a cell that does not exist.")
        return cls(index, jpegs, {bank.name: arrays[name] for name, bank in named.items()})


def _array_name(bank: str) -> str:
    return f"bank_{bank}"
