"""Errors of the serving layer."""

from __future__ import annotations

from service.errors import PlumblineError


class ProposalsBusy(PlumblineError):
    """Another proposal is being computed.

    Only one is computed at a time, so that inspections are not delayed. Send the request again after `retry_after`.
    """

    slug = "proposals-busy"
    title = "Another proposal is being computed"
    status = 503

    def __init__(self, retry_after_s: float = 5.0) -> None:
        super().__init__(
            "Good images are being measured for another proposal. Only one proposal is computed at a time, so that "
            f"inspections are not delayed. Retry after {retry_after_s:g} s.",
            retry_after=retry_after_s,
        )


class GoodImagesBusy(PlumblineError):
    """Good images for another training job are being received.

    They are received one request at a time, so that inspections are not delayed. Send the request again after
    `retry_after`.
    """

    slug = "good-images-busy"
    title = "Other good images are being received"
    status = 503

    def __init__(self, retry_after_s: float = 5.0) -> None:
        super().__init__(
            "Good images for another training job are being received. Only one request is processed at a time, so that "
            f"inspections are not delayed. Retry after {retry_after_s:g} s.",
            retry_after=retry_after_s,
        )


class TrainingStorageFull(PlumblineError):
    """The images would need more space than training jobs may use together. Nothing was stored.

    Wait until other jobs have ended, cancel some, send fewer images, or raise `PLUMBLINE_MAX_TRAINING_BYTES`.
    """

    slug = "training-storage-full"
    title = "Storage of training images is full"
    status = 507

    def __init__(self, limit_bytes: int, stored_bytes: int) -> None:
        super().__init__(
            f"The images of training jobs may take {limit_bytes} bytes, and {stored_bytes} are in use, which leaves "
            "too little for these images. Nothing was stored. Wait until other jobs have ended, cancel some, send "
            "fewer images, or raise PLUMBLINE_MAX_TRAINING_BYTES.",
            limit_bytes=limit_bytes,
            stored_bytes=stored_bytes,
        )


class PreviewsBusy(PlumblineError):
    """Other previews of recipe changes are being computed.

    Their number is limited, so that inspections are not delayed. Send the request again after `retry_after`.
    """

    slug = "previews-busy"
    title = "Too many previews of recipe changes"
    status = 503

    def __init__(self, limit: int, retry_after_s: float = 1.0) -> None:
        super().__init__(
            f"{limit} previews of recipe changes are being computed, which is the limit, so that inspections are not "
            f"delayed. Retry after {retry_after_s:g} s.",
            limit=limit,
            retry_after=retry_after_s,
        )


class TooManyEventStreams(PlumblineError):
    """The number of open streams of stored inspections has reached its limit.

    Close streams that are no longer used, such as pages in hidden tabs, or raise `PLUMBLINE_MAX_EVENT_STREAMS`.
    """

    slug = "too-many-event-streams"
    title = "Too many streams of events"
    status = 503

    def __init__(self, limit: int, retry_after_s: float = 5.0) -> None:
        super().__init__(
            f"{limit} streams of stored inspections are open, which is the limit. Close streams that are not used, or "
            f"raise PLUMBLINE_MAX_EVENT_STREAMS. Retry after {retry_after_s:g} s.",
            limit=limit,
            retry_after=retry_after_s,
        )


class RecordsBusy(PlumblineError):
    """A summary, an export or a report of this client is running, or too many clients have one.

    Each client has one at a time, so that inspections are not delayed. Send the request again after `retry_after`.
    """

    slug = "records-busy"
    title = "Another summary, export or report is running"
    status = 503

    def __init__(self, *, is_own: bool, retry_after_s: float = 2.0) -> None:
        what = (
            "A summary, export or report of this client is"
            if is_own
            else "Summaries, exports or reports of other clients are"
        )
        super().__init__(
            f"{what} running. Their number is limited, so that inspections are not delayed. Retry after "
            f"{retry_after_s:g} s.",
            retry_after=retry_after_s,
        )


class ExportFormatUnavailable(PlumblineError):
    """The package that writes this export format is not installed on the service.

    Request another format, or install the extra that the message names.
    """

    slug = "export-format-unavailable"
    title = "Export format is not available"
    status = 501

    def __init__(self, format_name: str, package: str, extra: str) -> None:
        super().__init__(
            f"The format {format_name} needs the package {package}, which is not installed. Install it on the machine "
            f"of the service with pip install ./client '.[{extra}]' in a checkout of Plumbline, or request the format "
            "csv.",
            format=format_name,
            extra=extra,
        )
