"""Failures that only training knows; as the service's, each says what was wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from service.errors import PlumblineError


class TeacherWeightsUnavailable(PlumblineError):
    """The pretrained weights of a teacher could not be obtained."""

    slug = "teacher-weights-unavailable"
    title = "Teacher weights unavailable"

    def __init__(self, teacher: str, reason: str, ways_out: Iterable[str]) -> None:
        ways = list(ways_out)
        offer = "; or ".join(ways)
        super().__init__(
            f"No weights for the teacher {teacher!r}: {reason}. Either {offer}.",
            teacher=teacher,
            ways_out=ways,
        )


class UnknownTeacher(PlumblineError):
    slug = "unknown-teacher"
    title = "Unknown teacher"

    def __init__(self, teacher: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"There is no teacher {teacher!r}; choose one of {', '.join(names)}.", known=names)


class UnknownMethod(PlumblineError):
    slug = "unknown-method"
    title = "Unknown method"

    def __init__(self, method: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"There is no method {method!r}; choose one of {', '.join(names)}.", known=names)


class WrongTeachers(PlumblineError):
    slug = "wrong-teachers"
    title = "Wrong number of teachers"

    def __init__(self, method: str, wanted: Sequence[str], given: Sequence[str]) -> None:
        super().__init__(
            f"The method {method!r} learns from {len(wanted)} teacher(s), for instance {' and '.join(wanted)}, but "
            f"{len(given)} are named ({', '.join(given) or 'none'}). Give --teacher once for each."
        )


class InvalidFitConfig(PlumblineError):
    slug = "invalid-fit-config"
    title = "Invalid training configuration"


class TooFewImages(PlumblineError):
    slug = "too-few-images"
    title = "Too few images to train on"

    def __init__(self, count: int, least: int, what: str) -> None:
        super().__init__(f"{count} {what} images are too few: at least {least} are needed. Add images of good parts.")


class CheckpointMismatch(PlumblineError):
    """A checkpoint belongs to another run (other images or other settings)."""

    slug = "checkpoint-mismatch"
    title = "The checkpoint belongs to another run"

    def __init__(self, path: Path, differences: Iterable[str]) -> None:
        super().__init__(
            f"{path} cannot be resumed: {'; '.join(differences)}. Use the settings and images of the first run, or "
            "start afresh without --resume."
        )


# --- the data set, the export ---------------------------------------------------------------------------------


class DataFolderMissing(PlumblineError):
    slug = "data-folder-missing"
    title = "Data folder missing"

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not a folder. Give --data a folder of good images or an MVTec-layout folder.")


class NoImagesFound(PlumblineError):
    slug = "no-images-found"
    title = "No images found"

    def __init__(self, folder: Path, looked_for: str, remedy: str) -> None:
        super().__init__(f"No images found in {folder}: looked for {looked_for}; {remedy}.")


class TooFewGoodImages(PlumblineError):
    slug = "too-few-good-images"
    title = "Too few good images"

    def __init__(self, folder: Path, found: int, minimum: int) -> None:
        super().__init__(
            f"{found} different good images in {folder}, at least {minimum} are needed (some to learn from, some "
            f"held out for the threshold). Photograph {minimum - found} more good parts."
        )


class LooksDefective(PlumblineError):
    slug = "looks-defective"
    title = "Training data look defective"

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(
            f"{folder} has a sub-folder {name!r} that looks like defective or test images; training needs good "
            "ones only. Name the folder of good images, or arrange train/good, test/good, test/<defect>."
        )


class UnreadableImage(PlumblineError):
    slug = "unreadable-image"
    title = "Unreadable image"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason} Repair it or take it out of the folder.")


class MaskMismatch(PlumblineError):
    slug = "mask-mismatch"
    title = "Mask and image differ in size"

    def __init__(self, path: Path, mask_wh: tuple[int, int], image_wh: tuple[int, int]) -> None:
        super().__init__(
            f"The mask {path} is {mask_wh[0]}x{mask_wh[1]}, its image is {image_wh[0]}x{image_wh[1]}. "
            "Draw the mask at the size of its image."
        )


class InvalidOption(PlumblineError):
    slug = "invalid-option"
    title = "Invalid option"

    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(f"{option} is {value}, expected {expected}.")


class InvalidSettings(PlumblineError):
    slug = "invalid-settings"
    title = "Settings file cannot be used"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"The settings {path} cannot be used: {reason}. "
            "Expected a TOML file like those in configs/, with text in quotes."
        )


class ExportFailed(PlumblineError):
    slug = "export-failed"
    title = "Export failed"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The trained network cannot be exported: {reason}. No bundle was written; this is a fault of the "
            "method, not of the images."
        )


class ExportParityFailed(PlumblineError):
    """The exported graph answers otherwise than the trained network, so no bundle may be written."""

    slug = "export-parity-failed"
    title = "Export differs from the trained network"

    def __init__(self, probe: str, measured: float, tolerance: float) -> None:
        super().__init__(
            f"The exported graph differs from the trained network by {measured:.2e} (relative) on {probe}, "
            f"allowed is {tolerance:.0e}. No bundle was written. The usual cause is a Python branch on tensor "
            "values or a random layer in the method's forward.",
            measured=measured,
            tolerance=tolerance,
        )


class EmptyMask(PlumblineError):
    """A defective image's mask marks nothing."""

    slug = "empty-mask"
    title = "Mask marks nothing"
    status = 422

    def __init__(self, path: Path, highest: int) -> None:
        super().__init__(
            f"{path} marks no pixel as defective: its highest value is {highest}, expected 0 and 255. Multiply a mask "
            "of 0 and 1 by 255; remove the mask of an image whose defect is not drawn."
        )
