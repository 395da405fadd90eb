"""Errors of reviews."""

from __future__ import annotations

from service.errors import PlumblineError


class NoReviewToWithdraw(PlumblineError):
    """The reviewer has no review of this inspection that could be withdrawn.

    A reviewer can withdraw reviews of their own only, the newest one first. `GET /v1/inspections/{id}/reviews` lists
    them.
    """

    slug = "no-review-to-withdraw"
    title = "No review to withdraw"
    status = 409

    def __init__(self, inspection_id: str, reviewer: str, review_id: int | None = None) -> None:
        which = "no review" if review_id is None else f"another newest review than {review_id}"
        super().__init__(
            f"{reviewer!r} has {which} of the inspection {inspection_id}, so nothing was withdrawn. "
            f"GET /v1/inspections/{inspection_id}/reviews lists all reviews.",
            inspection_id=inspection_id,
            reviewer=reviewer,
        )


class ExportBusy(PlumblineError):
    """Other exports of labelled images are running.

    Their number is limited, so that they do not delay inspections. Send the request again after `retry_after`.
    """

    slug = "export-busy"
    title = "Too many exports are running"
    status = 503

    def __init__(self, limit: int, retry_after_s: float = 10.0) -> None:
        super().__init__(
            f"{limit} exports of labelled images are already running, which is the limit. Retry after "
            f"{retry_after_s:g} s.",
            retry_after=retry_after_s,
        )
