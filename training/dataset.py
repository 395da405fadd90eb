"""The images of a product: training, held-out and test images.

Two layouts are supported: MVTec AD's (`train/good`, `test/good`, `test/<defect>` and, optionally,
`ground_truth/<defect>/<stem>_mask.png`), and any folder of good images, searched recursively.

Held-out good images are not used for training; their scores are the calibration card. Images of one session (for
example one day or one lot) resemble each other more than those of another. Where dates, sub-folders or a common prefix
of file names separate the sessions, whole sessions are held out, so that the thresholds also hold for sessions that
training has not seen. The reference images, on which the constants of the map are measured, are whole sessions as well.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from service.bundle.card import GroupedBy
from service.bundle.images import ImageHashes
from service.bundle.manifest import InputGeometry
from service.errors import BodyTooLarge
from service.inspection.capture_groups import GroupChoice, Grouping, group_images, is_defect_folder
from service.inspection.decoded_image import DecodedImage, decode_for
from service.inspection.decoding.decoder import decode, read_header, read_media_type
from service.inspection.decoding.formats import JPEG
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
from training.exclusion import find_excluded
from training.image_limits import image_limits
from training.split import (
    MAX_HELD_OUT_FRACTION,
    MIN_FEW_IMAGES,
    MIN_TRAINING_IMAGES,
    choose_reference,
    hold_out,
)

GOOD = "good"

GROUPED_BY: Mapping[GroupedBy, str] = {
    "date-in-name": "dates in names",
    "folder": "sub-folders",
    "prefix": "common prefixes of file names",
}
"""What separates capture groups, in words."""

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
        folder: The folder of the good images: `root`, or `train/good` in it.
        train: Good images for the network and, the reference, for the constants of its map.
        reference: The images of `train` that only the constants of the map are measured on.
        held_out: Good images for the calibration card, disjoint from `train`.
        sessions: The session of each held-out image, in the same order; "all" if single images are held out.
        grouped_by: The property that separates the sessions of `sessions`.
        grouping: The session of every good image, `train` first, then `held_out`, whether or not whole sessions could
            be held out.
        hashes: SHA-256 of the files in `train` and `held_out`.
        test: The test split; empty for a plain folder.
        fingerprint: sha256 over the sorted sha256 of all good images; independent of file names and of the split.
        duplicates: Files that are not used because another file has the same content.
        excluded: Files that were left out on request.
    """

    root: Path
    folder: Path
    train: tuple[Path, ...]
    reference: tuple[Path, ...]
    held_out: tuple[Path, ...]
    sessions: tuple[str, ...]
    grouped_by: GroupedBy
    grouping: Grouping
    hashes: ImageHashes
    test: tuple[TestImage, ...]
    fingerprint: str
    duplicates: tuple[Path, ...]
    excluded: tuple[Path, ...]

    @property
    def groups(self) -> Mapping[str, int]:
        """The number of held-out images by session."""
        return dict(sorted(Counter(self.sessions).items()))

    @property
    def fitted(self) -> tuple[Path, ...]:
        """The images that the network is trained on: `train` without the reference."""
        reference = set(self.reference)
        return tuple(path for path in self.train if path not in reference)


def scan(
    data: Path,
    *,
    held_out_fraction: float = 0.2,
    held_out_min: int = 10,
    few: bool = False,
    seed: int = 0,
    groups: GroupChoice = "auto",
    exclude: Sequence[str] = (),
) -> DataSet:
    """Find a product's good images, hold some out, and list the test split if there is one.

    Args:
        data: An MVTec-layout folder or a folder of good images.
        held_out_fraction: Requested share of held-out images, above 0 and at most 0.5.
        held_out_min: Smallest number of held-out images; half of the images, if that is less.
        few: Whether `MIN_FEW_IMAGES` are enough. Otherwise `MIN_TRAINING_IMAGES` are needed beside the held-out ones.
        seed: Seed of the selection of held-out images or sessions.
        groups: The property that separates sessions, see `group_images`.
        exclude: Names of good images to leave out, see `training.exclusion`.

    Raises:
        DataFolderMissing, NoImagesFound, TooFewGoodImages, LooksDefective, InvalidOption: See their messages.
    """
    if not 0 < held_out_fraction <= MAX_HELD_OUT_FRACTION:
        expected = f"above 0 and at most {MAX_HELD_OUT_FRACTION}"
        raise InvalidOption("The held-out share", held_out_fraction, expected)
    good_root, found = find_good(data)
    excluded = find_excluded(exclude, found, good_root)
    found = [path for path in found if path not in excluded]
    digests, duplicates, fingerprint = _hash(found)
    unique = list(digests)
    minimum = MIN_FEW_IMAGES if few else MIN_TRAINING_IMAGES + held_out_min
    if len(unique) < minimum:
        quick = MIN_FEW_IMAGES if len(unique) >= MIN_FEW_IMAGES else None
        raise TooFewGoodImages(good_root, len(unique), minimum, quick)
    wanted = max(round(len(unique) * held_out_fraction), min(held_out_min, len(unique) // 2))
    # Names of groups are written to the bundle, as text.
    grouping = group_images([PurePath(path_text(path.relative_to(good_root))) for path in unique], groups)
    if groups not in {"auto", "none"} and grouping.grouped_by == "none":
        raise InvalidOption("--groups", groups, f"a property that separates the images of {good_root} into groups")
    session_of = dict(zip(unique, grouping.names, strict=True))
    held_out = hold_out(session_of, grouping.grouped_by != "none", wanted, seed)
    whole_sessions = held_out is not None
    if held_out is None:
        held_out = set(random.Random(seed).sample(unique, wanted))
    train = [path for path in unique if path not in held_out]
    calibration = sorted(held_out)
    return DataSet(
        root=data,
        folder=good_root,
        train=tuple(train),
        reference=tuple(choose_reference({path: session_of[path] for path in train}, grouping.grouped_by != "none")),
        held_out=tuple(calibration),
        sessions=tuple(session_of[path] if whole_sessions else "all" for path in calibration),
        grouped_by=grouping.grouped_by if whole_sessions else "none",
        grouping=Grouping(grouping.grouped_by, tuple(session_of[path] for path in (*train, *calibration))),
        hashes=ImageHashes.of((digests[path] for path in train), (digests[path] for path in calibration)),
        test=tuple(_test_split(data)) if (data / "test").is_dir() else (),
        fingerprint=fingerprint,
        duplicates=tuple(duplicates),
        excluded=tuple(sorted(excluded)),
    )


def find_good(data: Path) -> tuple[Path, list[Path]]:
    """Find the folder of a product's good images and the image files in it.

    Raises:
        DataFolderMissing, NoImagesFound, LooksDefective: See their messages.
    """
    good_root = _good_root(data)
    found = find_image_files(good_root)
    if not found:
        raise NoImagesFound(good_root, f"{', '.join(IMAGE_SUFFIXES)} in all sub-folders", "check --data")
    return good_root, found


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
    paths: Sequence[Path],
    geometry: InputGeometry,
    progress: Callable[[int], None] | None = None,
    sizes: list[tuple[int, int]] | None = None,
) -> UInt8Images:
    """Decode and resize images as the service does.

    Args:
        paths: Image files.
        geometry: Input of the graph.
        progress: Called with the number of images done so far.
        sizes: Width and height of every image are appended, in pixels of the file.

    Returns:
        uint8 `[N, height, width, 3]`, RGB.

    Raises:
        UnreadableImage: An image cannot be read; the message names the first one.
    """

    def load(path: Path) -> tuple[UInt8Images, tuple[int, int]]:
        image = read_for(path, geometry)
        return prepare(image.rgb, geometry), image.image_wh

    images = np.empty((len(paths), geometry.height, geometry.width, 3), np.uint8)
    with ThreadPoolExecutor(cpu_quota()) as pool:
        for index, (image, image_wh) in enumerate(pool.map(load, paths)):
            images[index] = image
            if sizes is not None:
                sizes.append(image_wh)
            if progress is not None:
                progress(index + 1)
    return images


def read_for(path: Path, geometry: InputGeometry) -> DecodedImage:
    """Decode an image file for a graph, as the service does.

    Args:
        path: The file.
        geometry: Input of the graph.

    Raises:
        UnreadableImage: The file is missing, damaged, too large or not an image.
    """
    with image_errors(path):
        return decode_for(path.read_bytes(), image_limits(), geometry)


def read_rgb(path: Path) -> UInt8Images:
    """Decode an image file at its full size with the service's decoder.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        UnreadableImage: The file is missing, damaged, too large or not an image.
    """
    with image_errors(path):
        return decode(path.read_bytes(), image_limits())


def require_jpeg(paths: Sequence[Path]) -> None:
    """Require that all images are JPEG files, as those that will be inspected.

    Scaled decoding gives JPEG images other pixels than resizing gives images of other formats, so a product must not
    be trained on one and inspected on the other.

    Raises:
        InvalidOption: An image has another format.
        UnreadableImage: An image cannot be read.
    """
    for path in paths:
        with image_errors(path), path.open("rb") as file:
            media_type = read_media_type(file.read(32))
        if media_type != JPEG:
            raise InvalidOption("--scaled-decoding", f"on with {path} ({media_type})", "JPEG images only")


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


def _hash(paths: Sequence[Path]) -> tuple[dict[Path, str], list[Path], str]:
    """Return the unique files with their sha256, the duplicates, and the fingerprint."""
    with ThreadPoolExecutor(cpu_quota()) as pool:
        digests = list(pool.map(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths))
    first = dict(zip(reversed(digests), reversed(paths), strict=True))
    unique = {path: digest for path, digest in zip(paths, digests, strict=True) if first[digest] == path}
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
