"""One exception class per failure; the message is built inside.

Every message says what was wrong, what was expected and what to do about it. `slug` is the stable name of the
failure (the last part of its problem type), `status` the HTTP status that fits it best; the HTTP layer only
translates (RFC 9457), it invents nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar


class PlumblineError(Exception):
    """Base of every failure that Plumbline reports on purpose.

    Attributes:
        slug: Stable kebab-case name of the failure; part of the public interface.
        title: One line that is the same for every occurrence.
        status: HTTP status code that a server answers with.
        detail: What happened this time, what was expected and what to do.
        extensions: Machine-readable members, JSON-serialisable.
    """

    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500

    def __init__(self, detail: str, **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extensions: dict[str, Any] = extensions

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the same call may succeed, or None where waiting does not help."""
        value = self.extensions.get("retry_after")
        return None if value is None else float(value)


# --- what was asked for is not there -------------------------------------------------------------------------


class UnknownProduct(PlumblineError):
    slug = "unknown-product"
    title = "Unknown product"
    status = 404

    def __init__(self, product: str, known: Iterable[str]) -> None:
        names = sorted(known)
        offer = f"Known products: {', '.join(names)}." if names else "The model repository holds no product."
        super().__init__(f"There is no product {product!r}. {offer}", product=product, known=names)


class UnknownInspection(PlumblineError):
    slug = "unknown-inspection"
    title = "Unknown inspection"
    status = 404

    def __init__(self, inspection_id: str) -> None:
        super().__init__(
            f"There is no inspection {inspection_id!r} in the store. Check the id that the inspection's answer named.",
            inspection_id=inspection_id,
        )


class ArtefactGone(PlumblineError):
    slug = "artefact-gone"
    title = "Artefact no longer stored"
    status = 410

    def __init__(self, what: str, inspection_id: str, removed_at: datetime | None = None) -> None:
        if removed_at is None:
            why = (
                "It was lost or removed by hand, unless retention is removing it just now; restore it from a backup if "
                "it is needed."
            )
        else:
            why = (
                f"Retention removed it on {removed_at:%Y-%m-%d at %H:%M} UTC, as the product's recipe said then. Let "
                "the recipe keep images and maps for longer (`retention`) if they are needed."
            )
        super().__init__(
            f"The {what} of inspection {inspection_id} is not on disk any more, its record still is. {why}",
            artefact=what,
            inspection_id=inspection_id,
            removed_at=None if removed_at is None else removed_at.isoformat(),
        )


class NotJudged(PlumblineError):
    slug = "not-judged"
    title = "Picture was not judged"
    status = 409

    def __init__(self, inspection_id: str) -> None:
        super().__init__(
            f"The picture of inspection {inspection_id} was not worth a verdict (decision `invalid`), so there is no "
            "anomaly map of it and nothing to replay. The inspection's `invalid_reasons` say why.",
            inspection_id=inspection_id,
        )


# --- the picture or the request is not usable ----------------------------------------------------------------


class UnsupportedMediaType(PlumblineError):
    slug = "unsupported-media-type"
    title = "Unsupported media type"
    status = 415

    def __init__(self, got: str | None, expected: Sequence[str]) -> None:
        what = f"Content-Type {got!r} is not accepted" if got else "The request names no Content-Type"
        super().__init__(f"{what}. Send one of: {', '.join(expected)}.", got=got, expected=list(expected))


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
            f"The {media_type} data is truncated or corrupt ({reason}). A damaged picture is never judged: "
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
    title = "Picture is not what the recipe declares"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The picture is not what the product's recipe declares under `pixels`: {reason}. Judged with the wrong "
            "black and white it would get a wrong verdict: set the camera back, or change the recipe."
        )


class BodyTooLarge(PlumblineError):
    slug = "body-too-large"
    title = "Request body too large"
    status = 413

    def __init__(self, limit_bytes: int, setting: str = "PLUMBLINE_MAX_BODY_BYTES") -> None:
        super().__init__(
            f"The request body is larger than {limit_bytes} bytes. Send a smaller or compressed image, "
            f"or raise {setting}.",
            limit_bytes=limit_bytes,
        )


class TooManyImages(PlumblineError):
    slug = "too-many-images"
    title = "Too many pictures in one call"
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The call holds more than {limit} pictures. Split it into several, or raise PLUMBLINE_MAX_CALL_IMAGES.",
            limit=limit,
        )


class BadArchive(PlumblineError):
    slug = "bad-archive"
    title = "Zip file cannot be read"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(f"The zip file cannot be read: {reason} Pack it again and send it again.")


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


class InvalidRequest(PlumblineError):
    slug = "invalid-request"
    title = "Invalid request"
    status = 422

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail, errors=[dict(error) for error in errors])


class InvalidRecipe(PlumblineError):
    slug = "invalid-recipe"
    title = "Invalid recipe"
    status = 422

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(f"{detail} Nothing was changed.", errors=[dict(error) for error in errors])


class AreaMismatch(PlumblineError):
    slug = "area-mismatch"
    title = "Picture does not fit the recipe's polygons"
    status = 422

    def __init__(self, reason: str, width: int, height: int) -> None:
        super().__init__(
            f"The picture of {width} x {height} pixels was not judged: {reason}. ROI and ignore polygons are in pixels "
            "of the picture that the camera sends: check its resolution, or draw the polygons of the recipe again.",
            width=width,
            height=height,
        )


# --- the service cannot answer now ---------------------------------------------------------------------------


class QueueFull(PlumblineError):
    slug = "queue-full"
    title = "Inspection queue is full"
    status = 503

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{limit} inspections are already waiting, which is the limit. Send the picture again after "
            f"{retry_after_s:g} s, slow the cameras down, or add a faster machine.",
            limit=limit,
            retry_after=retry_after_s,
        )


class TooManyStreams(PlumblineError):
    slug = "too-many-streams"
    title = "Too many streams"
    status = 503

    def __init__(self, limit: int, retry_after_s: float = 5.0) -> None:
        super().__init__(
            f"{limit} cameras are streaming already, which is the limit. Close streams that nobody needs, raise "
            "PLUMBLINE_MAX_STREAMS, or send single pictures.",
            limit=limit,
            retry_after=retry_after_s,
        )


class DeadlineExceeded(PlumblineError):
    slug = "deadline-exceeded"
    title = "Inspection waited too long"
    status = 503

    def __init__(self, deadline_s: float, retry_after_s: float) -> None:
        super().__init__(
            f"The inspection waited longer than {deadline_s:g} s for its turn and was dropped without a verdict. "
            f"Send the picture again after {retry_after_s:g} s.",
            deadline_s=deadline_s,
            retry_after=retry_after_s,
        )


class ShuttingDown(PlumblineError):
    slug = "shutting-down"
    title = "Service is shutting down"
    status = 503

    def __init__(self, retry_after_s: float = 5.0) -> None:
        super().__init__(
            "The service is stopping and takes no new pictures; those it accepted are still answered. Send the "
            f"picture again after {retry_after_s:g} s, or to another instance.",
            retry_after=retry_after_s,
        )


class ProductNotReady(PlumblineError):
    slug = "product-not-ready"
    title = "Product is not ready"
    status = 503

    def __init__(self, product: str, reason: str, retry_after_s: float = 5.0) -> None:
        super().__init__(
            f"Product {product!r} cannot be inspected now: {reason}",
            product=product,
            retry_after=retry_after_s,
        )


class ProposalsBusy(PlumblineError):
    slug = "proposals-busy"
    title = "Another proposal is being made"
    status = 503

    def __init__(self, retry_after_s: float = 5.0) -> None:
        super().__init__(
            "Good images are being measured for another proposal; one is made at a time, so that the line's own "
            f"pictures do not wait. Ask again after {retry_after_s:g} s.",
            retry_after=retry_after_s,
        )


class ScoreNotFinite(PlumblineError):
    slug = "score-not-finite"
    title = "The graph computed no score"
    status = 500

    def __init__(self, score: float) -> None:
        super().__init__(
            f"The graph's score for this picture is {score}, which is no number, so there is no verdict. Treat the "
            "part as not inspected and keep its picture: the bundle or the execution provider is at fault."
        )


# --- bundles and execution providers -------------------------------------------------------------------------


class BundleInvalid(PlumblineError):
    """A bundle that is not served. Base of every reason for that."""

    slug = "bundle-invalid"
    title = "Bundle is not valid"
    status = 422

    def __init__(self, path: Path, reason: str, remedy: str = "Export the bundle again.") -> None:
        super().__init__(f"The bundle {path} is not served: {reason} {remedy}", bundle=path.name)
        self._reason, self._remedy = reason, remedy

    def found_at(self, path: Path) -> None:
        """Say where the bundle was meant to lie instead of where it was examined."""
        BundleInvalid.__init__(self, path, self._reason, self._remedy)


class BundleIntegrity(BundleInvalid):
    """A file is missing, was added, or differs from what the manifest vouches for."""

    slug = "bundle-integrity"
    title = "Bundle was changed or is incomplete"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason, "Copy it again from where it was trained; a bundle is never edited.")


class BundleSchema(BundleInvalid):
    """The manifest or the calibration card is not of a form this version reads."""

    slug = "bundle-schema"
    title = "Bundle has an unknown form"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason, "Export it with a training package of the same major version as the service.")


class BundleOfOtherProduct(BundleInvalid):
    """It was trained on other parts; whatever it says about these would mean nothing."""

    slug = "bundle-of-other-product"
    title = "Bundle was made for another product"

    def __init__(self, path: Path, made_for: str, product: str) -> None:
        super().__init__(
            path,
            f"it was made for product {made_for!r}, not for {product!r}.",
            f"Put it under {made_for!r}, or train one for {product!r}.",
        )


class ExternalData(BundleInvalid):
    """The graph points at files outside itself: a way to read the host's disk, so it is refused."""

    slug = "bundle-external-data"
    title = "Bundle's graph uses external data"

    def __init__(self, path: Path, tensor: str) -> None:
        super().__init__(
            path,
            f"tensor {tensor!r} of its graph lies outside the model file.",
            "Export it as one self-contained file.",
        )


class ParityFailure(BundleInvalid):
    """On this machine's provider the graph does not compute what it computed at training."""

    slug = "parity-failure"
    title = "Bundle fails its parity self-test"

    def __init__(self, path: Path, provider: str, difference: float, tolerance: float) -> None:
        super().__init__(
            path,
            f"on provider {provider!r} the golden samples differ by {difference:.2e} (relative) from what training "
            f"recorded, {tolerance:.0e} is allowed.",
            "Serve it on the provider it was calibrated on, or export it again here.",
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
