"""The images that a bundle was made from, found again in a folder by the SHA-256 of their files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationCard, GroupedBy
from service.bundle.images import ImageHashes
from service.inspection.capture_groups import GroupChoice, group_images
from service.inspection.image_files import find_image_files, path_text
from training.certification import HeldOut
from training.dataset import GOOD, image_errors
from training.errors import DataFolderMissing, SourceImagesMissing

Role = Literal["training", "calibration"]
_CHOICES: Mapping[GroupedBy, GroupChoice] = {"date-in-name": "date", "folder": "folder", "prefix": "prefix"}


@dataclass(frozen=True)
class SourceImages:
    """The images that a bundle was made from.

    Attributes:
        training: The training images, at least one.
        held_out: All images of the calibration card.
    """

    training: tuple[Path, ...]
    held_out: HeldOut


def find_source_images(
    bundle: Bundle, data: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> SourceImages:
    """Find the images that a bundle was made from.

    The capture groups of the held-out images are derived from their names again and must be those of the card.

    Args:
        bundle: The bundle.
        data: An MVTec-layout folder, or a folder of good images: the one that the bundle was trained on.
        progress: Called with the number of files that were read, and the number of all.

    Raises:
        DataFolderMissing: `data` is not a folder.
        SourceImagesMissing: The bundle does not list its images, a held-out image or every training image is missing,
            or the names of the images give other capture groups.
        UnreadableImage: A file cannot be read.
    """
    if not data.is_dir():
        raise DataFolderMissing(data)
    if bundle.images is None:
        raise SourceImagesMissing(data, "the bundle does not list its images, because an old version wrote it")
    folder = data / "train" / GOOD if (data / "train" / GOOD).is_dir() else data
    found = match_images(bundle.images, find_image_files(folder), progress)
    missing = len(bundle.images.calibration) - len(found["calibration"])
    if missing:
        raise SourceImagesMissing(data, f"{missing} of {len(bundle.images.calibration)} held-out images are not there")
    if not found["training"]:
        raise SourceImagesMissing(data, f"none of the {len(bundle.images.training)} training images is there")
    held_out = tuple(sorted(found["calibration"].values()))
    training = tuple(sorted(found["training"].values()))
    sessions = _sessions(bundle.card, folder, training, held_out, data)
    return SourceImages(training, HeldOut(held_out, sessions, bundle.card.grouped_by))


def match_images(
    images: ImageHashes, files: Sequence[Path], progress: Callable[[int, int], None] = lambda *_: None
) -> dict[Role, dict[str, Path]]:
    """Read image files and return those that a bundle was made from.

    Args:
        images: The images of the bundle.
        files: The files.
        progress: Called with the number of files that were read, and the number of all.

    Returns:
        By role the path of every image that was found, by its SHA-256 (hex); of equal files the first one.

    Raises:
        UnreadableImage: A file cannot be read.
    """
    found: dict[Role, dict[str, Path]] = {"training": {}, "calibration": {}}
    for number, path in enumerate(files, 1):
        with image_errors(path), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if (role := images.role_of(digest)) is not None:
            found[role].setdefault(digest, path)
        progress(number, len(files))
    return found


def _sessions(
    card: CalibrationCard, folder: Path, training: tuple[Path, ...], held_out: tuple[Path, ...], data: Path
) -> tuple[str, ...]:
    """Return the capture group of every held-out image."""
    if card.grouped_by == "none":
        return ("all",) * len(held_out)
    # In the order of a scan, and with the training images: a common prefix depends on all names.
    paths = sorted((*training, *held_out))
    names = group_images([PurePath(path_text(path.relative_to(folder))) for path in paths], _CHOICES[card.grouped_by])
    group_of = dict(zip(paths, names.names, strict=True))
    sessions = tuple(group_of[path] for path in held_out)
    if Counter(sessions) != {group.name: group.count for group in card.groups}:
        raise SourceImagesMissing(
            data, "the names of the files and folders give other capture groups than those of the calibration card"
        )
    return sessions
