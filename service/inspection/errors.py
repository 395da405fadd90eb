"""Errors of the decision core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.errors import PlumblineError


class NotAnImage(PlumblineError):
    """The data is not an image in a supported format. It was refused before decoding.

    The format is detected from the content, not from the file name or `Content-Type`. Send one of the formats that the
    problem lists under `expected`.
    """

    slug = "not-an-image"
    title = "Not a supported image"
    status = 415

    def __init__(self, found: str, expected: Sequence[str]) -> None:
        super().__init__(
            f"The data is not a supported image: {found}. Send one of: {', '.join(expected)}.",
            expected=list(expected),
        )


class CorruptImage(PlumblineError):
    """The image is truncated or corrupt. It is not inspected, because a partly decoded image could pass as good.

    Check the camera and the transfer, and send the image again.
    """

    slug = "corrupt-image"
    title = "Truncated or corrupt image"
    status = 422

    def __init__(self, media_type: str, reason: str) -> None:
        super().__init__(
            f"The {media_type} data is truncated or corrupt ({reason}). A damaged image is not inspected: "
            "check the camera and the transfer, and send it again.",
            media_type=media_type,
        )


class UnsupportedImage(PlumblineError):
    """The image is in a supported format, but uses a feature of this format that is not supported.

    The message names the feature. Change the settings of the camera or of the program that writes the image.
    """

    slug = "unsupported-image"
    title = "Image feature is not supported"
    status = 415

    def __init__(self, media_type: str, feature: str) -> None:
        super().__init__(
            f"The {media_type} file is not supported: {feature}. It was not inspected. Change the settings of the "
            "camera or of the program that writes it.",
            media_type=media_type,
        )


class ImageTooComplex(PlumblineError):
    """Decoding the image needs more work or memory than allowed. It was refused before decoding.

    Images of cameras do not reach these limits. Save the image again with usual settings, for example as a baseline
    JPEG or as a TIFF with larger strips.
    """

    slug = "image-too-complex"
    title = "Image needs too much work to decode"
    status = 413

    def __init__(self, media_type: str, reason: str) -> None:
        super().__init__(
            f"The {media_type} file needs too much work to decode: {reason}. It was refused before decoding. Save the "
            "image again with usual settings.",
            media_type=media_type,
        )


class UnknownPixelFormat(PlumblineError):
    """The pixel format of the camera buffer is not supported.

    Set the camera to one of the PFNC formats that the problem lists under `known`.
    """

    slug = "unknown-pixel-format"
    title = "Unknown pixel format"
    status = 415

    def __init__(self, got: str, known: Iterable[str]) -> None:
        names = list(known)
        super().__init__(
            f"The pixel format {got!r} is not supported. Set the camera to one of these PFNC formats: "
            f"{', '.join(names)}.",
            got=got,
            known=names,
        )


class BufferSizeMismatch(PlumblineError):
    """The size of the camera buffer does not match its declared pixel format, width, height and stride.

    Check the `X-Pixel-Format`, `X-Width`, `X-Height` and `X-Stride` headers, and that the frame was transferred
    completely.
    """

    slug = "buffer-size-mismatch"
    title = "Camera buffer does not have the declared size"
    status = 422

    def __init__(self, pixel_format: str, width: int, height: int, stride: int, expected: int, got: int) -> None:
        super().__init__(
            f"The buffer has {got} bytes, expected {expected}: {width} x {height} pixels in {pixel_format} with "
            f"{stride} bytes per line. Check X-Pixel-Format, X-Width, X-Height and X-Stride, and that the frame is "
            "complete.",
            expected_bytes=expected,
            got_bytes=got,
            stride=stride,
        )


class PixelMismatch(PlumblineError):
    """The image contradicts the `pixels` section of the product's recipe, for example in its format or bit depth.

    With wrong black and white levels the verdict would be wrong, so the image is not inspected. Change the camera's
    settings back, or change the recipe.
    """

    slug = "pixel-mismatch"
    title = "Image does not match the recipe"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The image does not match the `pixels` section of the product's recipe: {reason}. Change the camera's "
            "settings back, or change the recipe."
        )


class TooManyPixels(PlumblineError):
    """The image has more pixels than allowed. It was refused by its header, before decoding.

    Send a smaller image, or raise `PLUMBLINE_MAX_PIXELS`.
    """

    slug = "too-many-pixels"
    title = "Image has too many pixels"
    status = 413

    def __init__(self, width: int, height: int, limit_pixels: int) -> None:
        super().__init__(
            f"The image has {width} x {height} = {width * height} pixels, the limit is {limit_pixels}. It was refused "
            "before decoding. Send a smaller image, or raise PLUMBLINE_MAX_PIXELS.",
            width=width,
            height=height,
            limit_pixels=limit_pixels,
        )


class AreaMismatch(PlumblineError):
    """The ROI or ignore polygons of the recipe do not fit the size of the image, so the image was not inspected.

    Polygons are in pixels of the image that the camera sends. Check the camera's resolution, or draw the polygons
    again.
    """

    slug = "area-mismatch"
    title = "Image does not fit the recipe's polygons"
    status = 422

    def __init__(self, reason: str, width: int, height: int) -> None:
        super().__init__(
            f"The image of {width} x {height} pixels was not inspected: {reason}. ROI and ignore polygons are in "
            "pixels of the image that the camera sends. Check its resolution, or draw the polygons of the recipe "
            "again.",
            width=width,
            height=height,
        )


class ScoreNotFinite(PlumblineError):
    """The graph computed a score that is NaN or infinite, so there is no verdict.

    Treat the part as not inspected and keep its image. The cause is the bundle or the execution provider.
    """

    slug = "score-not-finite"
    title = "Score is not a finite number"
    status = 500

    def __init__(self, score: float) -> None:
        super().__init__(
            f"The score of this image is {score}, which is not a finite number, so there is no verdict. Treat the part "
            "as not inspected and keep its image. The cause is the bundle or the execution provider."
        )


# What provides a provider's libraries.
_PROVIDER_REMEDIES = {
    "cuda": "`pip install '.[cuda]'` in a checkout installs the CUDA and cuDNN libraries; the driver belongs to the "
    "operating system",
    "tensorrt": "`pip install tensorrt-cu13` installs TensorRT, and `pip install '.[cuda]'` in a checkout the CUDA and "
    "cuDNN libraries; the driver belongs to the operating system",
    "openvino": "`pip install '.[openvino]'` in a checkout installs it",
}


class ProviderUnavailable(PlumblineError):
    """The requested execution provider cannot be used on this machine.

    The message names the missing library or driver. Install it, or use `PLUMBLINE_PROVIDER=cpu`. The service never
    falls back to another provider than the one that was requested explicitly.
    """

    slug = "provider-unavailable"
    title = "Execution provider is not available"
    status = 503

    def __init__(self, requested: str, reason: str) -> None:
        super().__init__(
            f"The execution provider {requested!r} was requested but cannot be used: {reason} Install what is missing "
            f"({_PROVIDER_REMEDIES[requested]}), or set PLUMBLINE_PROVIDER=cpu.",
            requested=requested,
        )


class NoExplanation(PlumblineError):
    """The bundle that decided the inspection cannot explain its anomaly map.

    It was trained before explanations were stored, or its method does not add up maps. Train the product again with
    `plumbline-train fit`; inspections that the new bundle decides can be explained. Older inspections keep their
    heatmap.
    """

    slug = "no-explanation"
    title = "Bundle has no explanation"
    status = 409

    def __init__(self, product: str, version: str, reason: str | None = None) -> None:
        why = (
            "it was trained before explanations were stored, or its method does not add up maps."
            if reason is None
            else f"the explanation in its manifest does not match its graph: {reason}"
        )
        super().__init__(
            f"Bundle {version} cannot explain its anomaly maps: {why} Train {product!r} again with `plumbline-train "
            "fit` and activate the new bundle; its inspections can be explained.",
            product=product,
            version=version,
        )


class ExplanationDiffers(PlumblineError):
    """The anomaly map that was computed for the explanation is not the one that was stored.

    Then it would explain another decision, so it is refused. The inspection may have been decided on another execution
    provider whose results differ more than the bundle's parity certificate permits. `plumbline replay` compares scores.
    """

    slug = "explanation-differs"
    title = "Explanation differs from the stored map"
    status = 409

    def __init__(self, version: str, difference: float, tolerance: float) -> None:
        super().__init__(
            f"The anomaly map that bundle {version} computes now differs from the stored one, or from the sum of its "
            f"sources, by {difference:.1e} (relative); at most {tolerance:.0e} is allowed. It would explain another "
            "decision, so it is not shown. Replay the inspection to compare the scores.",
            version=version,
        )
