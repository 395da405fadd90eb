"""Names in the export of labelled images: MVTec AD's folders, as `plumbline-train` reads them."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime

from service.reviews.sampling import hash_of

GOOD = "good"
UNNAMED_DEFECT = "defect"
_MAX_NAME = 64
_FORBIDDEN = re.compile(r"[^\w-]+")
# Windows reserves these names for devices, in every folder and with every suffix.
_RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d", re.IGNORECASE)


def folder_of_kind(kind: str | None) -> str:
    """Return the name of the folder for a kind of defect.

    It consists of letters, digits, `-` and `_` in lower case, so that it is valid on every file system and different on
    those that ignore case. Kinds that differ only in other characters share a folder.

    Args:
        kind: The kind as the reviewer wrote it; None if none was named.
    """
    text = unicodedata.normalize("NFKC", kind or "").casefold()
    name = _FORBIDDEN.sub("_", text).strip("_-")[:_MAX_NAME].strip("_-")
    if not name:
        return UNNAMED_DEFECT
    return f"{UNNAMED_DEFECT}_{name}" if name == GOOD or _RESERVED.fullmatch(name) else name


def is_test_image(sha256: str, test_share: float) -> bool:
    """Return whether a good image belongs to the test images.

    It depends on the image alone: an image keeps its place in every export, and images with the same content are never
    in both parts.

    Args:
        sha256: Digest of the image.
        test_share: Share of the test images, 0 to 1.
    """
    return hash_of(f"export {sha256}") < test_share


def image_path(folder: str, inspection_id: str, moment: datetime, suffix: str) -> str:
    """Return the path of an image in the export.

    The name begins with the date, by which training separates the days.

    Args:
        folder: Folder of the image.
        inspection_id: Id of the inspection.
        moment: When the image was taken.
        suffix: Suffix of the file, with its dot.
    """
    return f"{folder}/{moment.astimezone(UTC):%Y-%m-%d}_{inspection_id}{suffix}"
