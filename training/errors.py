"""Failures of training. Each message states what was wrong, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from service.errors import PlumblineError

# --- method, teachers, settings -------------------------------------------------------------------------------


class TeacherWeightsUnavailable(PlumblineError):
    """The pretrained weights of a teacher could not be obtained."""

    slug = "teacher-weights-unavailable"
    title = "Teacher weights unavailable"

    def __init__(self, teacher: str, reason: str, remedies: Iterable[str]) -> None:
        remedies = list(remedies)
        super().__init__(
            f"The weights of the teacher {teacher!r} are not available: {reason}. Either {'; or '.join(remedies)}.",
            teacher=teacher,
            remedies=remedies,
        )


class UnknownTeacher(PlumblineError):
    """No teacher is registered under this name."""

    slug = "unknown-teacher"
    title = "Unknown teacher"

    def __init__(self, teacher: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"There is no teacher {teacher!r}; choose one of {', '.join(names)}.", known=names)


class UnknownMethod(PlumblineError):
    """No method is registered under this name."""

    slug = "unknown-method"
    title = "Unknown method"

    def __init__(self, method: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"There is no method {method!r}; choose one of {', '.join(names)}.", known=names)


class WrongTeachers(PlumblineError):
    """The number of teachers is not the number that the method needs."""

    slug = "wrong-teachers"
    title = "Wrong number of teachers"

    def __init__(self, method: str, wanted: Sequence[str], given: Sequence[str]) -> None:
        super().__init__(
            f"The method {method!r} needs {len(wanted)} teacher(s), for example {' and '.join(wanted)}, but "
            f"{len(given)} are given ({', '.join(given) or 'none'}). Repeat --teacher for each teacher."
        )


class InvalidFitConfig(PlumblineError):
    """A setting of a training run has the wrong type or is out of range."""

    slug = "invalid-fit-config"
    title = "Invalid training configuration"


class InvalidSettings(PlumblineError):
    """A settings file cannot be read, or holds an invalid setting."""

    slug = "invalid-settings"
    title = "Invalid settings file"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"The settings file {path} is invalid: {reason}. "
            "Expected a TOML file like those in configs/, with text in quotes."
        )


class TooFewIterations(PlumblineError):
    """The training would end within the warm-up of the learning rate."""

    slug = "too-few-iterations"
    title = "Too few training steps"

    def __init__(self, iterations: int, minimum: int, recommended: int) -> None:
        super().__init__(
            f"{iterations} training steps end within the warm-up of the learning rate, so the network stays useless. "
            f"Use at least {minimum} steps (--iterations; {recommended} are the method's default), or give "
            "--allow-weak, which is recorded in the bundle."
        )


class WeakBundle(PlumblineError):
    """The trained network does not separate good images from synthetic anomalies."""

    slug = "weak-bundle"
    title = "Weak bundle"

    def __init__(self, weaknesses: Sequence[str]) -> None:
        super().__init__(
            f"No bundle was written, because the network hardly finds defects: {'; '.join(weaknesses)}. Train longer "
            "(--iterations), at a larger --input-size, with more images or with another --method; check that the "
            "images show the part. To write the bundle nevertheless, repeat the command with --resume --allow-weak, "
            "which is recorded in the bundle."
        )


class InvalidProductList(PlumblineError):
    """The list of the products of a fleet cannot be read, or has invalid lines."""

    slug = "invalid-product-list"
    title = "Invalid product list"

    expected = (
        "Expected a CSV file whose first line is `product,data,settings` (settings may be left out), and one product "
        "per line."
    )

    def __init__(self, path: Path, reasons: Sequence[str]) -> None:
        super().__init__(f"{path} is invalid, and nothing was trained: {'; '.join(reasons)}. {self.expected}")
        self.reasons = tuple(reasons)


class RayUnavailable(PlumblineError):
    """The Ray cluster cannot be used."""

    slug = "ray-unavailable"
    title = "Ray cluster unavailable"

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"The Ray cluster cannot be used: {reason}. {remedy}")


class InvalidOption(PlumblineError):
    """A command-line option has an invalid value."""

    slug = "invalid-option"
    title = "Invalid option"

    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(f"{option} is {value}, expected {expected}.")


class DeviceUnavailable(PlumblineError):
    """The requested device does not exist on this machine."""

    slug = "device-unavailable"
    title = "Training device unavailable"

    def __init__(self, device: str) -> None:
        super().__init__(
            f"The device is {device!r}, but PyTorch finds no CUDA GPU on this machine. Install an NVIDIA driver and a "
            "PyTorch build with CUDA, or train on the CPU with --device cpu."
        )


# --- the images -----------------------------------------------------------------------------------------------


class DataFolderMissing(PlumblineError):
    """The data folder does not exist."""

    slug = "data-folder-missing"
    title = "Data folder missing"

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not a folder. Set --data to a folder of good images or an MVTec-layout folder.")


class NoImagesFound(PlumblineError):
    """A folder holds no images where some are expected."""

    slug = "no-images-found"
    title = "No images found"

    def __init__(self, folder: Path, looked_for: str, remedy: str) -> None:
        super().__init__(f"No images found in {folder}: looked for {looked_for}; {remedy}.")


class TooFewGoodImages(PlumblineError):
    """There are too few good images to train on and to derive a threshold from."""

    slug = "too-few-good-images"
    title = "Too few good images"

    def __init__(self, folder: Path, found: int, minimum: int, few: int | None = None) -> None:
        """Initialise the error.

        Args:
            folder: The folder of the good images.
            found: Number of different images in it.
            minimum: Number that is needed.
            few: Number that is needed for the bundle of `fit --quick`, if there are that many.
        """
        remedy = "" if few is None else f", or make the bundle of --quick alone, which needs {few}"
        super().__init__(
            f"{folder} has {found} different good images, at least {minimum} are needed (some for training, some held "
            f"out for the threshold). Add {minimum - found} more images of good parts{remedy}."
        )


class TooFewImages(PlumblineError):
    """`fit` was called with too few images."""

    slug = "too-few-images"
    title = "Too few images to train on"

    def __init__(self, count: int, least: int, what: str) -> None:
        super().__init__(f"{count} {what} images are too few: at least {least} are needed. Add images of good parts.")


class LooksDefective(PlumblineError):
    """A sub-folder of the good images has the name of a defect class or a test split."""

    slug = "looks-defective"
    title = "Training data contain defective images"

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(
            f"{folder} has a sub-folder {name!r}, a name for defective or test images. Training needs images of good "
            "parts only. Set --data to the folder of good images, or use the layout train/good, test/good, "
            "test/<defect>."
        )


class SourceImagesMissing(PlumblineError):
    """The images that a bundle was made from are needed again and are not all there."""

    slug = "source-images-missing"
    title = "Images of the bundle missing"

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"The images of the bundle cannot be taken from {folder}: {reason}. A graph of another precision is "
            "calibrated on the images of the bundle that it is made from. Set --data to the folder that the bundle was "
            "trained on, with unchanged files, or train the product again."
        )


class UnreadableImage(PlumblineError):
    """An image file is missing, damaged, too large or not an image."""

    slug = "unreadable-image"
    title = "Unreadable image"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason} Repair the file or remove it from the folder.")


class MaskMismatch(PlumblineError):
    """A ground-truth mask does not have the size of its image."""

    slug = "mask-mismatch"
    title = "Mask and image differ in size"

    def __init__(self, path: Path, mask_wh: tuple[int, int], image_wh: tuple[int, int]) -> None:
        super().__init__(
            f"The mask {path} is {mask_wh[0]}x{mask_wh[1]}, its image is {image_wh[0]}x{image_wh[1]}. "
            "Save the mask at the size of its image."
        )


class EmptyMask(PlumblineError):
    """The ground-truth mask of a defective image marks no pixel."""

    slug = "empty-mask"
    title = "Mask marks no pixel"
    status = 422

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} marks no pixel as defective: all of it is background (0). Mark the defect with another value, "
            "for example 255, or remove the mask if the defect is not annotated."
        )


class UnclearMask(PlumblineError):
    """Background and defects of a ground-truth mask cannot be distinguished."""

    slug = "unclear-mask"
    title = "Mask is not clear"
    status = 422

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"The mask {path} is not clear: {reason}. Expected a losslessly compressed image, for example PNG, whose "
            "background is 0 (black) or transparent; every other value or colour marks a defect."
        )


# --- checkpoint, export ---------------------------------------------------------------------------------------


class CheckpointMismatch(PlumblineError):
    """A checkpoint cannot be read, or belongs to a run with other images or settings."""

    slug = "checkpoint-mismatch"
    title = "Checkpoint does not match this run"

    def __init__(self, path: Path, differences: Iterable[str]) -> None:
        super().__init__(
            f"{path} cannot be resumed: {'; '.join(differences)}. Use the settings and images of the first run, or "
            "start a new run without --resume."
        )


class ExportFailed(PlumblineError):
    """The ONNX exporter or ONNX's checker rejects the trained network."""

    slug = "export-failed"
    title = "Export failed"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The trained network cannot be exported: {reason}. No bundle was written. The cause is the method's "
            "code, not the images. `plumbline-train --debug fit ...` prints the message of the exporter."
        )


class ExportParityFailed(PlumblineError):
    """The exported graph and the trained network compute different results, so no bundle may be written."""

    slug = "export-parity-failed"
    title = "Export differs from the trained network"

    def __init__(self, probe: str, measured: float, tolerance: float) -> None:
        super().__init__(
            f"The exported graph differs from the trained network by {measured:.2e} (relative) on {probe}; the "
            f"tolerance is {tolerance:.0e}. No bundle was written. The usual cause is a Python branch on tensor "
            "values or a random layer in the method's forward.",
            measured=measured,
            tolerance=tolerance,
        )


class NotConvertible(PlumblineError):
    """A bundle cannot be converted to another precision."""

    slug = "not-convertible"
    title = "Bundle cannot be converted"

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"The bundle {version} cannot be converted: {reason}.")


class PrecisionLoss(PlumblineError):
    """A graph of lower precision detects less than the bundle that it was made from."""

    slug = "precision-loss"
    title = "Precision costs too much accuracy"

    def __init__(self, losses: Sequence[str]) -> None:
        super().__init__(
            f"No bundle was written, because the graph of lower precision detects less: {'; '.join(losses)}. Keep the "
            "fp32 bundle for this product."
        )
