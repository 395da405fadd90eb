"""What can go wrong while a product is trained: one class a failure, the message built inside.

Every message says what was wrong, what was expected and what to do; the command line prints it as one line and ends
with exit code 2.
"""

from pathlib import Path


class TrainingError(Exception):
    """Base of all failures that the person at the keyboard can do something about."""


class DataFolderMissing(TrainingError):
    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not a folder; give --data a folder of good images or an MVTec-layout folder")


class NoImagesFound(TrainingError):
    def __init__(self, folder: Path, looked_for: str, remedy: str) -> None:
        super().__init__(f"no images found in {folder}: looked for {looked_for}; {remedy}")


class TooFewImages(TrainingError):
    def __init__(self, folder: Path, found: int, minimum: int) -> None:
        super().__init__(
            f"{found} different good images in {folder}, at least {minimum} are needed (some to learn from, some held"
            f" out for the threshold); photograph {minimum - found} more good parts"
        )


class LooksDefective(TrainingError):
    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(
            f"{folder} has a sub-folder {name!r} that looks like defective or test images; training needs good images"
            " only: name the folder of good images, or arrange train/good, test/good, test/<defect>"
        )


class UnreadableImage(TrainingError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read as an image: {reason}; repair it or take it out of the folder")


class MaskMismatch(TrainingError):
    def __init__(self, path: Path, mask_wh: tuple[int, int], image_wh: tuple[int, int]) -> None:
        super().__init__(
            f"mask {path} is {mask_wh[0]}x{mask_wh[1]}, its image is {image_wh[0]}x{image_wh[1]};"
            " a mask has the size of its image"
        )


class InvalidOption(TrainingError):
    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(f"{option} is {value}, expected {expected}")


class ExportParityFailed(TrainingError):
    """The exported graph answers otherwise than the trained network, so no bundle may be written."""

    def __init__(self, probe: str, measured: float, tolerance: float) -> None:
        self.measured = measured
        self.tolerance = tolerance
        super().__init__(
            f"the exported graph differs from the trained network by {measured:.2e} (relative) on {probe}, allowed is"
            f" {tolerance:.0e}; no bundle was written. A data-dependent Python branch or a randomised layer in the"
            " method's forward is the usual cause"
        )


class ExportFailed(TrainingError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"the trained network cannot be exported: {reason}; no bundle was written")
