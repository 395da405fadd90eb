"""Base class of all errors that Plumbline reports, and the errors of requests and of capacity.

Every package declares its own errors in its `errors.py`. There is one class per failure, and the class builds the
message. Every message states what was wrong, what was expected and what to do. `slug` is the stable name of the failure
(the last part of its problem type) and `status` its HTTP status. The HTTP layer only translates them (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self


class PlumblineError(Exception):
    """Base class of every failure that Plumbline reports on purpose.

    Attributes:
        slug: Stable name of the failure in kebab case; part of the public interface.
        title: One line that is the same for every occurrence.
        status: HTTP status code of the response.
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

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, pickle calls the class with `args`, but subclasses take what their message is built from.
        return _restore, (type(self), self.args, self.__dict__)

    @property
    def retry_after_s(self) -> float | None:
        """Return the seconds after which the same request may succeed, or None if waiting does not help."""
        value = self.extensions.get("retry_after")
        return None if value is None else float(value)

    def visible_to(self, products: Collection[str] | None) -> PlumblineError:
        """Return the error as a client may see it that is restricted to certain products; None for all products."""
        del products
        return self


def _restore(kind: type[PlumblineError], args: tuple[Any, ...], state: dict[str, Any]) -> PlumblineError:
    """Return an error that another process raised."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class CannotStart(Exception):
    """A setting cannot be put into effect, so the service does not start.

    Attributes:
        reason: What is wrong, and what was expected. It contains no secrets.
        remedy: What to do about it.
        detail: Both, as sentences.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.remedy = remedy
        self.detail = f"{reason[:1].upper()}{reason[1:]}. {remedy}"
        super().__init__(self.detail)


class UnsupportedMediaType(PlumblineError):
    """The request has no `Content-Type`, or one that the endpoint does not accept.

    Send one of the content types that the problem lists under `expected`.
    """

    slug = "unsupported-media-type"
    title = "Unsupported media type"
    status = 415

    def __init__(self, got: str | None, expected: Sequence[str]) -> None:
        what = f"Content-Type {got!r} is not accepted" if got else "The request has no Content-Type"
        super().__init__(f"{what}. Send one of: {', '.join(expected)}.", got=got, expected=list(expected))


class BodyTooLarge(PlumblineError):
    """The request body is larger than the limit. It is refused while it arrives, before it is processed.

    Send a smaller or better compressed image, or raise the setting that the message names.
    """

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
    """One call contains more images than allowed. None of them was inspected.

    Split the call into several, or raise `PLUMBLINE_MAX_CALL_IMAGES`.
    """

    slug = "too-many-images"
    title = "Too many images in one call"
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The call contains more than {limit} images. Split it into several, or raise PLUMBLINE_MAX_CALL_IMAGES.",
            limit=limit,
        )


class BadArchive(PlumblineError):
    """The uploaded zip file is damaged, encrypted or not a zip file at all.

    Create the archive again and resend it.
    """

    slug = "bad-archive"
    title = "Zip file cannot be read"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(f"The zip file cannot be read: {reason} Create the archive again and resend it.")


class InvalidRequest(PlumblineError):
    """The request violates the API: a value is missing, malformed or out of range.

    `errors` lists the violations, at most 20 of them, each with location (`loc`), text (`msg`), type and the values of
    the text (`params`). Correct the request; the same request fails again.
    """

    slug = "invalid-request"
    title = "Invalid request"
    status = 422

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail, errors=[dict(error) for error in errors])


class QueueFull(PlumblineError):
    """The inspection queue is full, so the image was refused before any work was done.

    Send it again after `retry_after` seconds. A client that sends again at once gets the next refusal later. If it
    happens often, the cameras are faster than the service: send fewer images or use a faster machine.

    Attributes:
        hold_s: Seconds to wait before the response is sent.
    """

    slug = "queue-full"
    title = "Inspection queue is full"
    status = 503
    hold_s = 0.0

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{limit} inspections are already in flight, which is the limit. Send the image again after "
            f"{retry_after_s:g} s. If this happens often, lower the frame rate or use a faster machine.",
            limit=limit,
            retry_after=retry_after_s,
        )


class MemoryBudgetExceeded(PlumblineError):
    """The memory for bodies in flight is in use, so the request was refused before its body was kept.

    Send it again after `retry_after` seconds. If it happens often, send fewer or smaller bodies at a time, or raise
    `PLUMBLINE_MAX_INFLIGHT_BODY_BYTES`.
    """

    slug = "memory-budget-exceeded"
    title = "Too many bytes in flight"
    status = 503

    def __init__(self, limit_bytes: int, retry_after_s: float = 1.0) -> None:
        super().__init__(
            f"The bodies in flight would need more than {limit_bytes} bytes of memory, which is the limit. Send the "
            f"request again after {retry_after_s:g} s. If this happens often, send fewer or smaller bodies at a time, "
            "or raise PLUMBLINE_MAX_INFLIGHT_BODY_BYTES.",
            limit_bytes=limit_bytes,
            retry_after=retry_after_s,
        )


class TooManyConnections(PlumblineError):
    """The number of open connections has reached its limit.

    Reuse connections, close those that are no longer used, or raise `PLUMBLINE_MAX_CONNECTIONS` and the number of files
    that the process may open.
    """

    slug = "too-many-connections"
    title = "Too many connections"
    status = 503

    def __init__(self, limit: int, retry_after_s: float = 1.0) -> None:
        super().__init__(
            f"{limit} connections are open, which is the limit. Reuse connections, or connect again after "
            f"{retry_after_s:g} s.",
            limit=limit,
            retry_after=retry_after_s,
        )


class StreamIdle(PlumblineError):
    """A WebSocket stream sent no frame for too long, so the service closed it.

    Connect again before the next frame, or raise `PLUMBLINE_STREAM_IDLE_TIMEOUT_S`.
    """

    slug = "stream-idle"
    title = "Stream was idle for too long"
    status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"No frame arrived for {seconds:g} s. Connect again before the next frame, or raise "
            "PLUMBLINE_STREAM_IDLE_TIMEOUT_S."
        )


class TooManyStreams(PlumblineError):
    """The number of open WebSocket streams, of all clients or of this one, has reached its limit.

    Close streams that are no longer used, raise `PLUMBLINE_MAX_STREAMS` or `PLUMBLINE_MAX_STREAMS_PER_CLIENT`, or send
    single images.
    """

    slug = "too-many-streams"
    title = "Too many streams"
    status = 503

    def __init__(self, limit: int, setting: str = "PLUMBLINE_MAX_STREAMS", retry_after_s: float = 5.0) -> None:
        who = "cameras are" if setting == "PLUMBLINE_MAX_STREAMS" else "cameras of this client are"
        super().__init__(
            f"{limit} {who} already streaming, which is the limit. Close streams that are not used, raise "
            f"{setting}, or send single images.",
            limit=limit,
            retry_after=retry_after_s,
        )


class DeadlineExceeded(PlumblineError):
    """The image waited in the queue longer than the deadline and was dropped without a verdict.

    Send it again after `retry_after` seconds. `PLUMBLINE_QUEUE_DEADLINE_S` sets the deadline. It also holds for drawing
    heatmaps and converting stored images; `inspection_id` then names the inspection, which stays stored.
    """

    slug = "deadline-exceeded"
    title = "Inspection deadline exceeded"
    status = 503

    def __init__(self, deadline_s: float, retry_after_s: float) -> None:
        super().__init__(
            f"The image waited in the queue for longer than {deadline_s:g} s and was dropped without a verdict. "
            f"Send the image again after {retry_after_s:g} s.",
            deadline_s=deadline_s,
            retry_after=retry_after_s,
        )

    @classmethod
    def of_drawing(cls, inspection_id: str, deadline_s: float, retry_after_s: float) -> Self:
        """Return the error for a stored inspection whose image or heatmap was not ready in time.

        Args:
            inspection_id: The inspection.
            deadline_s: The deadline in seconds.
            retry_after_s: Seconds after which the request may succeed.
        """
        error = cls(deadline_s, retry_after_s)
        error.detail = (
            f"The image of inspection {inspection_id} was not drawn within {deadline_s:g} s. The inspection is stored. "
            f"Get /v1/inspections/{inspection_id}/heatmap or /image after {retry_after_s:g} s."
        )
        error.extensions["inspection_id"] = inspection_id
        return error


class ShuttingDown(PlumblineError):
    """The service is shutting down and accepts no new images. Images that it accepted before are still inspected.

    Send the image again after `retry_after` seconds, or to another instance.
    """

    slug = "shutting-down"
    title = "Service is shutting down"
    status = 503

    def __init__(self, retry_after_s: float = 5.0) -> None:
        super().__init__(
            "The service is shutting down and accepts no new images. Images that it has accepted are still inspected. "
            f"Send the image again after {retry_after_s:g} s, or to another instance.",
            retry_after=retry_after_s,
        )
