"""Where a bundle comes from: its images, their capture groups, and the record of its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.bundle.bundle import Bundle
from service.inspection.image_files import find_image_files, path_text
from training.dataset import GOOD, GROUPED_BY
from training.run_record import RunRecord, find_record
from training.source_images import match_images

MAX_GROUPS = 60  # rows of the table of groups


@dataclass(frozen=True)
class GroupRow:
    """The images of a capture group. `training` is None where it is not recorded."""

    name: str
    training: int | None
    held_out: int


@dataclass(frozen=True)
class FoundImages:
    """Which of a bundle's images a folder still contains, by the SHA-256 of the files.

    Attributes:
        folder: The folder of good images.
        files: Number of image files in it.
        training: Number of the bundle's training images among them.
        held_out: Number of the bundle's held-out images among them.
    """

    folder: str
    files: int
    training: int
    held_out: int


@dataclass(frozen=True)
class Origin:
    """The origin of a bundle, as far as it is recorded or can be found.

    Attributes:
        record: The record of the training, None if there is none.
        found: The bundle's images in the folder of the data, None if they were not looked up.
        groups: The capture groups, at most `MAX_GROUPS`; empty if the images are not grouped.
        more_groups: Number of groups that are left out of `groups`.
        grouping: How the groups were found and used, as a sentence.
        missing: What is not there, as sentences.
    """

    record: RunRecord | None
    found: FoundImages | None
    groups: list[GroupRow]
    more_groups: int
    grouping: str
    missing: list[str]


def gather_origin(
    bundle: Bundle,
    run_dir: Path | None = None,
    data: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Origin:
    """Collect the origin of a bundle.

    Args:
        bundle: The bundle.
        run_dir: Folder of its training run, which need not exist. None: the record is not looked up.
        data: Folder of good images, or of the MVTec layout, in which the bundle's images are looked up.
        progress: Called with the number of image files that were read, and the number of all.

    Raises:
        UnreadableImage: A file cannot be read.
    """
    missing = []
    record = None
    looked_up = "The record of the training was not looked up." if run_dir is None else find_record(run_dir, bundle)
    if isinstance(looked_up, RunRecord):
        record = looked_up
    else:
        missing.append(f"{looked_up} So there is no training curve, and no number of training images by group.")
    found = None
    if data is not None:
        found_or_reason = _find_images(bundle, data, progress)
        if isinstance(found_or_reason, str):
            missing.append(found_or_reason)
        else:
            found = found_or_reason
            missing += _gone(bundle, found)
    groups = _groups(bundle, record)
    shown = groups[:MAX_GROUPS]
    return Origin(record, found, shown, len(groups) - len(shown), _describe_grouping(bundle, record), missing)


def _find_images(bundle: Bundle, data: Path, progress: Callable[[int, int], None]) -> FoundImages | str:
    """Look up the images of a bundle in a folder, or return why that is not possible, as a sentence."""
    if bundle.images is None:
        return "The bundle does not list its images, so they were not looked up."
    folder = data / "train" / GOOD
    if not folder.is_dir():
        if (data / "train").is_dir() or (data / "test").is_dir():
            return f"There is no {path_text(folder)}, so the images of the bundle were not looked up."
        folder = data
    files = find_image_files(folder)
    roles = match_images(bundle.images, files, progress)
    return FoundImages(path_text(folder), len(files), len(roles["training"]), len(roles["calibration"]))


def _gone(bundle: Bundle, found: FoundImages) -> list[str]:
    """Return which of the bundle's images are not in the folder, as a sentence; empty if none is missing."""
    assert bundle.images is not None  # they were looked up
    training, held_out = len(bundle.images.training), len(bundle.images.calibration)
    parts = [
        f"{total - there} of {total} {name} images"
        for name, there, total in (("training", found.training, training), ("held-out", found.held_out, held_out))
        if there < total
    ]
    if not parts:
        return []
    return [f"Not in {found.folder}, or changed since the training: {' and '.join(parts)}."]


def _groups(bundle: Bundle, record: RunRecord | None) -> list[GroupRow]:
    if record is not None:
        if record.grouped_by == "none":
            return []
        return [GroupRow(group.name, group.training, group.held_out) for group in record.groups]
    if bundle.card.grouped_by == "none":
        return []
    return [GroupRow(group.name, None, group.count) for group in bundle.card.groups]


def _describe_grouping(bundle: Bundle, record: RunRecord | None) -> str:
    card = bundle.card
    if card.grouped_by != "none":
        held_out = f"held out as a whole for the thresholds: {len(card.groups)}"
        return f"Groups by {GROUPED_BY[card.grouped_by]}; {held_out}."
    if record is not None and record.grouped_by != "none":
        return f"Groups by {GROUPED_BY[record.grouped_by]}; single images are held out, not whole groups."
    return "Single images are held out; no capture groups are distinguished, so all of them count as one session."
