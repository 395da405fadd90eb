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


class ReviewsBusy(PlumblineError):
    """Other exports of labelled images, or other reports on reviews, are being made.

    Their number is limited, so that they do not delay inspections. Send the request again after `retry_after`.
    """

    slug = "reviews-busy"
    title = "Too many evaluations of reviews"
    status = 503

    def __init__(self, what: str, limit: int, retry_after_s: float = 5.0) -> None:
        super().__init__(
            f"{limit} {what} are being made already, which is the limit. Retry after {retry_after_s:g} s.",
            retry_after=retry_after_s,
        )
