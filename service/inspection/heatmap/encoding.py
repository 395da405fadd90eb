"""Encoding of heatmaps as PNG, JPEG or WebP."""

from __future__ import annotations

import cv2
import numpy as np

from service.bundle.arrays import UInt8Image

HEATMAP_MEDIA_TYPES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
# Longest side that the encoder of a format accepts, in pixels. PNG has no relevant limit.
_LONGEST_SIDE = {"image/jpeg": 65_500, "image/webp": 16_383}


def encode(rgb: UInt8Image, media_type: str, quality: int = 90) -> bytes:
    """Encode an image.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        media_type: One of `HEATMAP_MEDIA_TYPES`.
        quality: Quality of JPEG and WebP, 1 to 100.

    Returns:
        The encoded image, scaled down where a side is longer than the format allows.
    """
    longest = max(rgb.shape[:2])
    if (allowed := _LONGEST_SIDE.get(media_type, longest)) < longest:
        height, width = (max(1, side * allowed // longest) for side in rgb.shape[:2])
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    quality_flag = {"image/jpeg": cv2.IMWRITE_JPEG_QUALITY, "image/webp": cv2.IMWRITE_WEBP_QUALITY}.get(media_type)
    flags = [] if quality_flag is None else [quality_flag, quality]
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(HEATMAP_MEDIA_TYPES[media_type], bgr, flags)
    if not done:
        raise RuntimeError(f"OpenCV could not encode {media_type}")
    return data.tobytes()
