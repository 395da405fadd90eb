"""Ground-truth masks of defective images."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.inspection.decoding import formats
from service.inspection.decoding.decoder import decode, read_media_type
from training.dataset import image_errors
from training.errors import EmptyMask, MaskMismatch, UnclearMask, UnreadableImage
from training.image_limits import image_limits

MAX_CLASSES = 32
_LOSSY = (formats.JPEG, formats.WEBP)


def read_mask(path: Path | None, image_wh: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a ground-truth mask. Every pixel that is not background is marked.

    The background is black, or transparent in a mask with an alpha channel that varies. A mask in which this is not
    clear is refused.

    Args:
        path: An image file, losslessly compressed; None for a good part.
        image_wh: Width and height of the inspected image, pixels.

    Returns:
        bool `[H, W]`, true where defective; all false without a file.

    Raises:
        UnreadableImage: The file is not an image.
        MaskMismatch: The mask does not have the size of its image.
        UnclearMask: Background and defects cannot be distinguished.
        EmptyMask: The mask marks no pixel.
    """
    if path is None:
        return np.zeros(image_wh[::-1], dtype=bool)
    with image_errors(path):
        data = path.read_bytes()
        decode(data, image_limits())  # refuses damaged files, which OpenCV reads in part
        media_type = read_media_type(data)
    if media_type in _LOSSY:
        raise UnclearMask(path, f"it is {media_type}, whose compression changes values near the background")
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise UnreadableImage(path, "Save the mask as a PNG file.")
    mask_wh = (mask.shape[1], mask.shape[0])
    if mask_wh != image_wh:
        raise MaskMismatch(path, mask_wh, image_wh)
    return _marked(path, np.asarray(mask).reshape(*mask.shape[:2], -1))


def _marked(path: Path, mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the marked pixels of a mask, [H, W, 1], [H, W, 3] or [H, W, 4] with alpha."""
    packed = sum(mask[..., channel].astype(np.uint64) << np.uint64(16 * channel) for channel in range(mask.shape[2]))
    classes = len(np.unique(packed))
    if classes > MAX_CLASSES:
        raise UnclearMask(path, f"it has {classes} different values or colours, as after smoothing or resizing")
    coloured = np.asarray((mask[..., :3] != 0).any(axis=2))
    marked = coloured
    if mask.shape[2] == 4 and (mask[..., 3] != mask[0, 0, 3]).any():
        marked = np.asarray(mask[..., 3] != 0)
        one_colour = bool((mask[..., :3] == mask[0, 0, :3]).all())
        if not one_colour and (marked & ~coloured).any():
            raise UnclearMask(path, "it has transparent pixels and opaque black ones, and only one can be background")
    if not marked.any():
        raise EmptyMask(path)
    corners = marked[[0, 0, -1, -1], [0, -1, 0, -1]]
    if marked.all() or (marked.mean() > 0.5 and corners.all()):
        share = f"{marked.mean():.0%}"
        raise UnclearMask(path, f"it marks {share} of the pixels and every corner, as if its background were not black")
    return marked
