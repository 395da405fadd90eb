"""Failures of the decision core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.errors import PlumblineError


class NotAnImage(PlumblineError):
    slug = "not-an-image"
    title = "Not a supported image"
    status = 415

    def __init__(self, found: str, expected: Sequence[str]) -> None:
        super().__init__(
            f"The data is not an image this service reads: {found}. Send one of: {', '.join(expected)}.",
            expected=list(expected),
        )


class CorruptImage(PlumblineError):
    slug = "corrupt-image"
    title = "Truncated or corrupt image"
    status = 422

    def __init__(self, media_type: str, reason: str) -> None:
        super().__init__(
            f"The {media_type} data is truncated or corrupt ({reason}). A damaged image is never judged: "
            "check the camera and the transfer, and send it again.",
            media_type=media_type,
        )


class UnknownPixelFormat(PlumblineError):
    slug = "unknown-pixel-format"
    title = "Unknown pixel format"
    status = 415

    def __init__(self, got: str, known: Iterable[str]) -> None:
        names = list(known)
        super().__init__(
            f"The pixel format {got!r} is not read. Set the camera to one of these PFNC formats: {', '.join(names)}.",
            got=got,
            known=names,
        )


class BufferSizeMismatch(PlumblineError):
    slug = "buffer-size-mismatch"
    title = "Camera buffer has another size than declared"
    status = 422

    def __init__(self, pixel_format: str, width: int, height: int, stride: int, expected: int, got: int) -> None:
        super().__init__(
            f"The buffer has {got} bytes; {width} x {height} pixels in {pixel_format} with {stride} bytes a line are "
            f"{expected}. Check X-Pixel-Format, X-Width, X-Height and X-Stride, and that the frame is complete.",
            expected_bytes=expected,
            got_bytes=got,
            stride=stride,
        )


class PixelMismatch(PlumblineError):
    slug = "pixel-mismatch"
    title = "Image is not what the recipe declares"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The image is not what the product's recipe declares under `pixels`: {reason}. Judged with the wrong "
            "black and white it would get a wrong verdict: set the camera back, or change the recipe."
        )


class TooManyPixels(PlumblineError):
    slug = "too-many-pixels"
    title = "Image has too many pixels"
    status = 413

    def __init__(self, width: int, height: int, limit_pixels: int) -> None:
        super().__init__(
            f"The image is {width} x {height} = {width * height} pixels, the limit is {limit_pixels}. It was refused "
            "before decoding. Send a smaller image, or raise PLUMBLINE_MAX_PIXELS.",
            width=width,
            height=height,
            limit_pixels=limit_pixels,
        )


class AreaMismatch(PlumblineError):
    slug = "area-mismatch"
    title = "Image does not fit the recipe's polygons"
    status = 422

    def __init__(self, reason: str, width: int, height: int) -> None:
        super().__init__(
            f"The image of {width} x {height} pixels was not judged: {reason}. ROI and ignore polygons are in pixels "
            "of the image that the camera sends: check its resolution, or draw the polygons of the recipe again.",
            width=width,
            height=height,
        )


class ScoreNotFinite(PlumblineError):
    slug = "score-not-finite"
    title = "The graph computed no score"
    status = 500

    def __init__(self, score: float) -> None:
        super().__init__(
            f"The graph's score for this image is {score}, which is no number, so there is no verdict. Treat the "
            "part as not inspected and keep its image: the bundle or the execution provider is at fault."
        )


class ProviderUnavailable(PlumblineError):
    slug = "provider-unavailable"
    title = "Execution provider is not available"
    status = 503

    def __init__(self, requested: str, reason: str) -> None:
        super().__init__(
            f"The execution provider {requested!r} was asked for and cannot be used: {reason} Install what is missing "
            "(pip install '.[cuda]' in the checkout brings the CUDA and cuDNN libraries, the driver the system), "
            "or ask for PLUMBLINE_PROVIDER=cpu.",
            requested=requested,
        )
