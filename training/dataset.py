"""The images of a product: training, held-out and test images.

Two layouts are supported: MVTec AD's (`train/good`, `test/good`, `test/<defect>` and, optionally,
`ground_truth/<defect>/<stem>_mask.png`), and any folder of good images, searched recursively.

Held-out good images are not used for training; their scores are the calibration card. Images of one session (for
example one day) resemble each other more than those of another. Where dates or sub-folders separate the sessions,
whole sessions are held out, so that the thresholds also hold for sessions that training has not seen.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from service.bundle.card import GroupedBy
from service.bundle.manifest import InputGeometry
from service.errors import BodyTooLarge
from service.inspection.capture_groups import group_images, is_defect_folder
from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.errors import CorruptImage, ImageTooComplex, NotAnImage, TooManyPixels, UnsupportedImage
from service.inspection.image_files import IMAGE_SUFFIXES, find_image_files, path_text
from service.inspection.preparation import prepare
from service.inspection.runtime.threads import cpu_quota
from training.errors import (
    DataFolderMissing,
    InvalidOption,
    LooksDefective,
    NoImagesFound,
    TooFewGoodImages,
    UnreadableImage,
)

GOOD = "good"
MIN_TRAINING_IMAGES = 10
MAX_HELD_OUT_FRACTION = 0.5

UInt8Images = NDArray[np.uint8]


@dataclass(frozen=True)
class TestImage:
    """One image of the test split.

    Attributes:
        path: The image file.
        defect: The name of its folder: "good" or the kind of defect.
        mask: The file of its ground-truth mask, None without one.
    """

    __test__ = False  # pytest would collect the class by its name

    path: Path
    defect: str
    mask: Path | None

    @property
    def defective(self) -> bool:
        """Whether the image shows a defective part."""
        return self.defect != GOOD


@dataclass(frozen=True)
class DataSet:
    """The result of `scan`.

    Attributes:
        root: The scanned folder.
        train: Good images to train on.
        held_out: Good images for the calibration card, disjoint from `train`.
        sessions: The session of each held-out image, in the same order.
        grouped_by: The property that separates the sessions.
        test: The test split; empty for a plain folder.
        fingerprint: sha256 over the sorted sha256 of all good images; independent of file names and of the split.
        duplicates: Files that are excluded because another file has the same content.
    """

    root: Path
    train: tuple[Path, ...]
    held_out: tuple[Path, ...]
    sessions: tuple[str, ...]
    grouped_by: GroupedBy
    test: tuple[TestImage, ...]
    fingerprint: str
    duplicates: tuple[Path, ...]

    @property
    def groups(self) -> Mapping[str, int]:
        """The number of held-out images by session."""
        return dict(sorted(Counter(self.sessions).items()))


def scan(data: Path, *, held_out_fraction: float = 0.2, held_out_min: int = 10, seed: int = 0) -> DataSet:
    """Find a product's good images, hold some out, and list the test split if there is one.

    Args:
        data: An MVTec-layout folder or a folder of good images.
        held_out_fraction: Requested share of held-out images, above 0 and at most 0.5.
        held_out_min: Smallest number of held-out images.
        seed: Seed of the selection of held-out images or sessions.

    Raises:
        DataFolderMissing, NoImagesFound, TooFewGoodImages, LooksDefective, InvalidOption: See their messages.
    """
    if not 0 < held_out_fraction <= MAX_HELD_OUT_FRACTION:
        expected = f"above 0 and at most {MAX_HELD_OUT_FRACTION}"
        raise InvalidOption("The held-out share", held_out_fraction, expected)
    good_root = _good_root(data)
    found = find_image_files(good_root)
    if not found:
        raise NoImagesFound(good_root, f"{', '.join(IMAGE_SUFFIXES)} in all sub-folders", "check --data")
    unique, duplicates, fingerprint = _hash(found)
    minimum = MIN_TRAINING_IMAGES + held_out_min
    if len(unique) < minimum:
        raise TooFewGoodImages(good_root, len(unique), minimum)
    wanted = max(round(len(unique) * held_out_fraction), held_out_min)
    chosen, grouped_by = _hold_out(unique, good_root, wanted, seed)
    held_out = sorted(chosen)
    return DataSet(
        root=data,
        train=tuple(path for path in unique if path not in chosen),
        held_out=tuple(held_out),
        sessions=tuple(chosen[path] for path in held_out),
        grouped_by=grouped_by,
        test=tuple(_test_split(data)) if (data / "test").is_dir() else (),
        fingerprint=fingerprint,
        duplicates=tuple(duplicates),
    )


def scan_test(data: Path) -> list[TestImage]:
    """List the test split of an MVTec-layout folder.

    Raises:
        DataFolderMissing: `data` is not a folder.
        NoImagesFound: There is no `test/good` or no `test/<defect>` with images.
    """
    if not data.is_dir():
        raise DataFolderMissing(data)
    images = _test_split(data) if (data / "test").is_dir() else []
    for wanted, name in ((False, GOOD), (True, "<defect>")):
        if not any(image.defective == wanted for image in images):
            remedy = "evaluation needs good and defective images in test/good and test/<defect>"
            raise NoImagesFound(data, f"images in test/{name}", remedy)
    return images


def load_prepared(
    paths: Sequence[Path], geometry: InputGeometry, progress: Callable[[int], None] | None = None
) -> UInt8Images:
    """Decode and resize images as the service does.

    Args:
        paths: Image files.
        geometry: Input of the graph.
        progress: Called with the number of images done so far.

    Returns:
        uint8 `[N, height, width, 3]`, RGB.

    Raises:
        UnreadableImage: An image cannot be read; the message names the first one.
    """
    images = np.empty((len(paths), geometry.height, geometry.width, 3), np.uint8)
    with ThreadPoolExecutor(cpu_quota()) as pool:
        for index, image in enumerate(pool.map(lambda path: prepare(read_rgb(path), geometry), paths)):
            images[index] = image
            if progress is not None:
                progress(index + 1)
    return images


def read_rgb(path: Path) -> UInt8Images:
    """Decode an image file with the service's decoder.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        UnreadableImage: The file is missing, damaged, too large or not an image.
    """
    with image_errors(path):
        return decode(path.read_bytes(), ImageLimits())


def read_size(path: Path) -> tuple[int, int]:
    """Read the width and height of an image file, in pixels, from its header.

    Raises:
        UnreadableImage: The file is missing, too large or not an image.
    """
    with image_errors(path):
        header = read_header(path.read_bytes())
    return header.width, header.height


@contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """Raise the errors of reading and decoding a file as `UnreadableImage`, which names the file."""
    try:
        yield
    except (BodyTooLarge, TooManyPixels, ImageTooComplex, NotAnImage, UnsupportedImage, CorruptImage) as error:
        raise UnreadableImage(path, error.detail) from error
    except OSError as error:
        raise UnreadableImage(path, f"{error.strerror}.") from error


def _good_root(data: Path) -> Path:
    if not data.is_dir():
        raise DataFolderMissing(data)
    if (data / "train" / GOOD).is_dir():
        return data / "train" / GOOD
    if (data / "train").is_dir():
        remedy = "the MVTec layout has the good images there"
        raise NoImagesFound(data / "train", f"a folder train/{GOOD}", remedy)
    for path in find_image_files(data):
        for folder in list(path.relative_to(data).parents)[-2::-1]:
            if is_defect_folder(folder.name):
                raise LooksDefective(data, folder.as_posix())
    return data


def _hash(paths: Sequence[Path]) -> tuple[list[Path], list[Path], str]:
    """Return the unique files, the duplicates and the fingerprint."""
    with ThreadPoolExecutor(cpu_quota()) as pool:
        digests = list(pool.map(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths))
    first = dict(zip(reversed(digests), reversed(paths), strict=True))
    unique = [path for path, digest in zip(paths, digests, strict=True) if first[digest] == path]
    duplicates = [path for path, digest in zip(paths, digests, strict=True) if first[digest] != path]
    return unique, duplicates, hashlib.sha256("\n".join(sorted(first)).encode()).hexdigest()


def _test_split(data: Path) -> list[TestImage]:
    images = []
    for folder in sorted(path for path in (data / "test").iterdir() if path.is_dir()):
        masks = data / "ground_truth" / folder.name
        for path in find_image_files(folder):
            candidates = [masks / f"{path.stem}_mask.png", masks / f"{path.stem}.png"]
            mask = next((file for file in candidates if file.is_file()), None)
            images.append(TestImage(path, path_text(folder.name), mask if folder.name != GOOD else None))
    return images


def _group(paths: Sequence[Path], root: Path) -> tuple[dict[str, list[Path]], GroupedBy]:
    # Names of groups are written to the bundle, as text.
    grouping = group_images([PurePath(path_text(path.relative_to(root))) for path in paths])
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, name in zip(paths, grouping.names, strict=True):
        groups[name].append(path)
    return dict(groups), grouping.grouped_by


def _hold_out(paths: Sequence[Path], root: Path, wanted: int, seed: int) -> tuple[dict[Path, str], GroupedBy]:
    """Choose the held-out images and return the session of each.

    Whole sessions are chosen until there are `wanted` images; single images where sessions are unknown or too coarse.
    """
    rng = random.Random(seed)
    groups, grouped_by = _group(paths, root)
    # At most half of the images are held out, and training keeps its minimum.
    limit = min(int(len(paths) * MAX_HELD_OUT_FRACTION), len(paths) - MIN_TRAINING_IMAGES)
    if grouped_by != "none":
        chosen: dict[Path, str] = {}
        for name in rng.sample(sorted(groups), len(groups)):
            if len(chosen) < wanted and len(chosen) + len(groups[name]) <= limit:
                chosen |= dict.fromkeys(groups[name], name)
        if len(chosen) >= wanted:
            return chosen, grouped_by
    return dict.fromkeys(rng.sample(list(paths), wanted), "all"), "none"
