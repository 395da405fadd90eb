"""Products, readiness and proposed thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

from plumbline_client._async.concurrency import run_blocking
from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, ImageSource, given, product_path, propose_call, read_images
from plumbline_client.responses import parse_readiness
from plumbline_client.schemas.drift import DriftReport
from plumbline_client.schemas.product import Product, ProductList, Readiness
from plumbline_client.schemas.proposal import Proposal
from plumbline_client.schemas.report import ReportFormat, ReportLanguage, ShiftReport
from plumbline_client.schemas.system import SystemState


class AsyncProductCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with products."""

    async def readiness(self) -> Readiness:
        """Return whether the service is ready to inspect images, and the reasons if it is not. Never retries."""
        call = Call("GET", "/health/ready")
        return parse_readiness(await self._exchange(call), self._url(call))

    async def system(self) -> SystemState:
        """Return products, queue, throughput, memory, disk, sinks and errors of the service.

        It needs the scope `engineer`.
        """
        return await self._load(SystemState, Call("GET", "/v1/system"))

    async def products(self) -> list[Product]:
        """Return the products of the service."""
        return (await self._load(ProductList, Call("GET", "/v1/products"))).items

    async def product(self, product: str) -> Product:
        """Return one product, with its bundle, calibration and recipe."""
        return await self._load(Product, Call("GET", product_path(product)))

    async def report(
        self,
        product: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        station: str | None = None,
        time_zone: str | None = None,
    ) -> ShiftReport:
        """Return what happened to a product in a period: counts, yields, scores, reviews, changes and drift.

        Args:
            product: Name of the product.
            since: Start of the period, with time zone; by default 24 hours before its end.
            until: End of the period, exclusive; by default now.
            station: Only inspections at this station.
            time_zone: IANA name of the time zone of the times in the report; by default that of the service.

        Raises:
            ServiceProblem: There is no such product, or another report or export of this client runs (`records-busy`).
        """
        values = {"since": since, "until": until, "station": station, "time_zone": time_zone, "format": "json"}
        return await self._load(ShiftReport, Call("GET", f"{product_path(product)}/report", given(values)))

    async def save_report(
        self,
        product: str,
        file: str | PathLike[str],
        file_format: ReportFormat = "html",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        station: str | None = None,
        time_zone: str | None = None,
        language: ReportLanguage | None = None,
    ) -> None:
        """Write a report to a file; see `report`.

        Args:
            product: Name of the product.
            file: The file.
            file_format: Format of the file: a page for people, a table, or JSON.
            since: Start of the period, with time zone; by default 24 hours before its end.
            until: End of the period, exclusive; by default now.
            station: Only inspections at this station.
            time_zone: IANA name of the time zone of the times in the report; by default that of the service.
            language: Language of the page; by default English.

        Raises:
            OSError: The file cannot be written.
            ServiceProblem: There is no such product, or another report or export of this client runs (`records-busy`).
            ServiceUnreachable: The response did not arrive completely.
        """
        values = {
            "since": since,
            "until": until,
            "station": station,
            "time_zone": time_zone,
            "format": file_format,
            "language": language,
        }
        await self._download(Call("GET", f"{product_path(product)}/report", given(values)), Path(file))

    async def drift(self, product: str) -> DriftReport:
        """Return the drift of a product: what is monitored, the evidence over time, and alarms."""
        return await self._load(DriftReport, Call("GET", f"{product_path(product)}/drift"))

    async def acknowledge_drift(self, product: str, *, reason: str, author: str | None = None) -> DriftReport:
        """Acknowledge all open drift alarms of a product. The guarantee is no longer suspended.

        Args:
            product: Name of the product.
            reason: What was found, and what was done about it.
            author: Person who acknowledges. With authentication, the service records the authenticated name.

        Raises:
            ServiceProblem: No alarm is open.
            ServiceUnreachable: No response arrived.
        """
        body = {"author": author, "reason": reason}
        return await self._load(DriftReport, Call("POST", f"{product_path(product)}/drift:acknowledge", json=body))

    async def propose_thresholds(
        self,
        product: str,
        *,
        author: str | None = None,
        target_false_reject_rate: float,
        review_rate: float | None = None,
        confidence: float | None = None,
        replay: int | None = None,
        ids: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        include_reviewed_good: bool = False,
        images: Sequence[ImageSource] | None = None,
        archive: bytes | None = None,
    ) -> Proposal:
        """Derive thresholds from good images. Nothing changes until `change_recipe(proposal_id=...)` applies them.

        The scores are those of the calibration card, unless stored inspections (`ids`, `since`, `until`) or images
        (`images`, `archive`) are given. These are thereby declared to show good parts.

        Args:
            product: Name of the product.
            author: Person who requests the proposal. With authentication, the service records the authenticated name.
            target_false_reject_rate: Largest share of good parts that may fail, between 0 and 1.
            review_rate: Largest share of good parts above the review threshold, between 0 and 1.
            confidence: Confidence of the bound for this calibration, between 0 and 1.
            replay: Number of stored inspections, the newest, that are decided again with the proposed thresholds.
            ids: Stored inspections of good parts.
            since: Instead: stored inspections from this time on, with time zone.
            until: Stored inspections before this time, with time zone.
            include_reviewed_good: Also the inspections that are labelled good by reviews, without those labelled
                defect. They may be the only ones.
            images: Instead: paths of image files, or pairs of name and bytes.
            archive: Instead: the bytes of a zip file of images.

        Raises:
            OSError: A file cannot be read.
            ServiceProblem: No thresholds can be derived; the problem states the reason.
            ServiceUnreachable: No response arrived.
        """
        options = {
            "author": author,
            "target_false_reject_rate": target_false_reject_rate,
            "review_rate": review_rate,
            "confidence": confidence,
            "replay": replay,
        }
        selection: dict[str, Any] = {"ids": None if ids is None else list(ids), "since": since, "until": until}
        if include_reviewed_good:
            selection["include_reviewed_good"] = True
        named = None if images is None else await run_blocking(read_images, images)
        return await self._load(Proposal, propose_call(product, options, selection, named, archive))
