"""One exception class per failure; the message is built inside.

Every message says what was wrong, what was expected and what to do about it. `slug` is the stable name of the
failure (the last part of its problem type), `status` the HTTP status that fits it best; the HTTP layer only
translates (RFC 9457), it invents nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


# --- the image or the request is not usable ----------------------------------------------------------------


class UnsupportedMediaType(PlumblineError):
    slug = "unsupported-media-type"
    title = "Unsupported media type"
    status = 415

    def __init__(self, got: str | None, expected: Sequence[str]) -> None:
        what = f"Content-Type {got!r} is not accepted" if got else "The request names no Content-Type"
        super().__init__(f"{what}. Send one of: {', '.join(expected)}.", got=got, expected=list(expected))


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
    title = "Too many images in one call"
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The call holds more than {limit} images. Split it into several, or raise PLUMBLINE_MAX_CALL_IMAGES.",
            limit=limit,
        )


class BadArchive(PlumblineError):
    slug = "bad-archive"
    title = "Zip file cannot be read"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(f"The zip file cannot be read: {reason} Pack it again and send it again.")


class InvalidRequest(PlumblineError):
    slug = "invalid-request"
    title = "Invalid request"
    status = 422

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail, errors=[dict(error) for error in errors])


# --- the service cannot answer now ---------------------------------------------------------------------------


class QueueFull(PlumblineError):
    slug = "queue-full"
    title = "Inspection queue is full"
    status = 503

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{limit} inspections are already waiting, which is the limit. Send the image again after "
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
            "PLUMBLINE_MAX_STREAMS, or send single images.",
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
            f"Send the image again after {retry_after_s:g} s.",
            deadline_s=deadline_s,
            retry_after=retry_after_s,
        )


class ShuttingDown(PlumblineError):
    slug = "shutting-down"
    title = "Service is shutting down"
    status = 503

    def __init__(self, retry_after_s: float = 5.0) -> None:
        super().__init__(
            "The service is stopping and takes no new images; those it accepted are still answered. Send the "
            f"image again after {retry_after_s:g} s, or to another instance.",
            retry_after=retry_after_s,
        )
