"""Reviews: labels of inspections, the queue, agreement, rates, and the export of labelled images."""

from __future__ import annotations

from datetime import datetime
from os import PathLike
from pathlib import Path

from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, given, inspection_path
from plumbline_client.schemas.review import (
    AgreementReport,
    DefectKinds,
    RatesReport,
    Review,
    ReviewHistory,
    ReviewLabel,
    ReviewQueue,
)


class AsyncReviewCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with reviews."""

    async def review(
        self,
        inspection_id: str,
        label: ReviewLabel,
        *,
        kind: str | None = None,
        note: str | None = None,
        reviewer: str | None = None,
    ) -> Review:
        """Label an inspection.

        Args:
            inspection_id: Id of the inspection.
            label: "good", "defect" or "unsure".
            kind: Kind of defect, such as "scratch".
            note: A remark.
            reviewer: Name of the reviewer, for a service without keys and accounts.
        """
        body = given({"label": label, "kind": kind, "note": note, "reviewer": reviewer})
        return await self._load(Review, Call("POST", f"{inspection_path(inspection_id)}:review", json=body))

    async def undo_review(
        self, inspection_id: str, *, review_id: int | None = None, reviewer: str | None = None
    ) -> ReviewHistory:
        """Withdraw the reviewer's newest review of an inspection.

        Args:
            inspection_id: Id of the inspection.
            review_id: The review to withdraw; repeating the call with it changes nothing.
            reviewer: Name of the reviewer, for a service without keys and accounts.
        """
        body = given({"review_id": review_id, "reviewer": reviewer})
        call = Call("POST", f"{inspection_path(inspection_id)}:undo-review", json=body)
        return await self._load(ReviewHistory, call)

    async def reviews(self, inspection_id: str) -> ReviewHistory:
        """Return the label of an inspection and all of its reviews, newest first."""
        return await self._load(ReviewHistory, Call("GET", f"{inspection_path(inspection_id)}/reviews"))

    async def review_queue(
        self,
        product: str,
        *,
        reviewer: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        pass_sample: int | None = None,
        fail_sample: int | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> ReviewQueue:
        """Return inspections to review: all `review` decisions, a sample, and disagreements with a shadow bundle.

        Args:
            product: Name of the product.
            reviewer: Name of the reviewer, for a service without keys and accounts.
            since: Start of the period, with time zone; by default midnight UTC seven days ago.
            until: End of the period, exclusive.
            pass_sample: Passed parts to sample per bundle.
            fail_sample: Failed parts to sample per bundle.
            limit: Maximum number of inspections.
            after: Id of the last inspection of the page before; the result has those that follow it.
        """
        values = {
            "product": product,
            "reviewer": reviewer,
            "since": since,
            "until": until,
            "pass_sample": pass_sample,
            "fail_sample": fail_sample,
            "limit": limit,
            "after": after,
        }
        return await self._load(ReviewQueue, Call("GET", "/v1/reviews:queue", given(values)))

    async def review_kinds(self, product: str) -> DefectKinds:
        """Return the kinds of defects that reviewers of a product named, most frequent first."""
        return await self._load(DefectKinds, Call("GET", "/v1/reviews:kinds", {"product": product}))

    async def review_agreement(self, product: str) -> AgreementReport:
        """Return how far the reviewers of a product agree."""
        return await self._load(AgreementReport, Call("GET", "/v1/reviews:agreement", {"product": product}))

    async def review_rates(
        self,
        product: str,
        *,
        fail_threshold: float | None = None,
        review_threshold: float | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        pass_sample: int | None = None,
        fail_sample: int | None = None,
    ) -> RatesReport:
        """Estimate the share of good parts that fail and of defective parts that pass.

        Args:
            product: Name of the product.
            fail_threshold: Proposed fail threshold, to estimate its rates as well.
            review_threshold: Proposed review threshold.
            since: As for the queue that was reviewed.
            until: As for the queue.
            pass_sample: As for the queue.
            fail_sample: As for the queue.
        """
        values = {
            "product": product,
            "fail_threshold": fail_threshold,
            "review_threshold": review_threshold,
            "since": since,
            "until": until,
            "pass_sample": pass_sample,
            "fail_sample": fail_sample,
        }
        return await self._load(RatesReport, Call("GET", "/v1/reviews:rates", given(values)))

    async def export_reviews(
        self,
        product: str,
        file: str | PathLike[str],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        test_share: float | None = None,
    ) -> None:
        """Write the labelled images to a zip file, in the folders of MVTec AD. It is written as it arrives.

        Args:
            product: Name of the product.
            file: Path of the zip file. It is incomplete if an error is raised.
            since: Start of the period, with time zone; by default all inspections.
            until: End of the period, exclusive.
            test_share: Share of the good images that become test images, 0 to 1.

        Raises:
            OSError: The file cannot be written.
            ServiceProblem: Nothing can be exported; the problem states the reason.
            ServiceUnreachable: The response did not arrive completely.
        """
        values = {"product": product, "since": since, "until": until, "test_share": test_share}
        await self._download(Call("GET", "/v1/reviews:export", given(values)), Path(file))
