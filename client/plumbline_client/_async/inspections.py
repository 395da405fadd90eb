"""Inspecting images and reading stored inspections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from plumbline_client._async.concurrency import run_blocking
from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import (
    Call,
    CameraBuffer,
    HeatmapFormat,
    ImageSource,
    InspectionFilters,
    batch_call,
    filter_params,
    inspect_call,
    inspection_path,
    page_call,
    read_images,
    try_call,
)
from plumbline_client.responses import parse_map, require_numpy
from plumbline_client.schemas.batch import BatchResult
from plumbline_client.schemas.bundle import ReplayRecord
from plumbline_client.schemas.explanation import WhyRecord
from plumbline_client.schemas.inspection import Inspection, InspectionPage, PreviewLayer, Trial
from plumbline_client.schemas.records import ExportFormat, GroupBy, InspectionSummary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class AsyncInspectionCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with inspections."""

    async def inspect(
        self,
        product: str,
        image: bytes,
        *,
        part_id: str | None = None,
        station: str | None = None,
        lot: str | None = None,
        captured_at: datetime | None = None,
        buffer: CameraBuffer | None = None,
        idempotency_key: str | None = None,
    ) -> Inspection:
        """Inspect an image.

        Args:
            product: Name of the product that the image shows.
            image: An encoded image, or the bytes of a camera buffer.
            part_id: Serial number of the part.
            station: Station that captured the image.
            lot: Lot or order that the part belongs to.
            captured_at: Time of capture, with time zone.
            buffer: Layout of the camera buffer; None if `image` is an encoded image.
            idempotency_key: Names this request, so that a program that sends it again after a failure, or after its own
                restart, gets the inspection of the first attempt; the same for the same image only. None for a new
                random key, which all attempts of this call share.

        Raises:
            ServiceProblem: The image could not be inspected; the problem states the reason.
            ServiceUnreachable: No response arrived.
        """
        part = {"part_id": part_id, "station": station, "lot": lot, "captured_at": captured_at}
        return await self._load(Inspection, inspect_call(product, image, part, buffer, idempotency_key))

    async def try_image(
        self, product: str, image: bytes, *, buffer: CameraBuffer | None = None, max_side: int = 0
    ) -> Trial:
        """Judge an image with the bundle and the recipe in force, without storing or counting it.

        Args:
            product: Name of the product that the image shows.
            image: An encoded image, or the bytes of a camera buffer.
            buffer: Layout of the camera buffer; None if `image` is an encoded image.
            max_side: Longest side of the preview and the heatmap in pixels, at most 2048; 0 for neither.

        Raises:
            ServiceProblem: The image could not be judged; the problem states the reason.
            ServiceUnreachable: No response arrived.
        """
        return await self._load(Trial, try_call(product, image, buffer, max_side))

    async def inspect_batch(
        self,
        product: str,
        images: Sequence[ImageSource],
        *,
        part_id: str | None = None,
        station: str | None = None,
        lot: str | None = None,
        buffer: CameraBuffer | None = None,
        idempotency_key: str | None = None,
    ) -> BatchResult:
        """Inspect several images in one request.

        Args:
            product: Name of the product that the images show.
            images: Paths of image files, or pairs of name and bytes. The results contain the names.
            part_id: Serial number of the part that the images show.
            station: Station that captured the images.
            lot: Lot or order that the part belongs to.
            buffer: Layout of the camera buffers; None if the images are encoded.
            idempotency_key: As for `inspect`; a request that is sent again must have the same images in the same order.

        Returns:
            For each image, in the order of `images`, the inspection or the problem.

        Raises:
            OSError: A file cannot be read.
            ServiceProblem: The request as a whole was refused.
            ServiceUnreachable: No response arrived.
        """
        part = {"part_id": part_id, "station": station, "lot": lot}
        named = await run_blocking(read_images, images)
        return await self._load(BatchResult, batch_call(product, named, part, buffer, idempotency_key))

    async def inspection(self, inspection_id: str) -> Inspection:
        """Return a stored inspection."""
        return await self._load(Inspection, Call("GET", inspection_path(inspection_id)))

    async def inspections(
        self,
        *,
        page_size: int = 100,
        **filters: Unpack[InspectionFilters],
    ) -> AsyncIterator[Inspection]:
        """Iterate over stored inspections, newest first. Pages are requested as they are needed.

        Args:
            page_size: Inspections per request.
            **filters: Conditions on the inspections, see `InspectionFilters`.
        """
        cursor: str | None = None
        params = filter_params(filters)
        while True:
            page = await self._load(InspectionPage, page_call(cursor, page_size, params))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    async def summary(
        self,
        by: GroupBy = "day",
        *,
        time_zone: str = "UTC",
        shifts: Sequence[str] | None = None,
        **filters: Unpack[InspectionFilters],
    ) -> InspectionSummary:
        """Return counts by decision and yields.

        Args:
            by: What inspections are grouped by.
            time_zone: IANA name of the time zone of hours, shifts and days.
            shifts: Local times at which shifts begin, such as "06:00"; None for those of the service.
            **filters: Conditions on the inspections, see `InspectionFilters`.
        """
        params = {**filter_params(filters), "by": by, "time_zone": time_zone}
        if shifts is not None:
            params["shifts"] = ",".join(shifts)
        return await self._load(InspectionSummary, Call("GET", "/v1/inspections:summary", params))

    async def export(
        self,
        file: str | PathLike[str],
        file_format: ExportFormat = "csv",
        **filters: Unpack[InspectionFilters],
    ) -> None:
        """Write stored inspections to a file, newest first.

        If the connection ends early, `ServiceUnreachable` is raised, and the file is not complete.

        Args:
            file: The file.
            file_format: Format of the file.
            **filters: Conditions on the inspections, see `InspectionFilters`.

        Raises:
            OSError: The file cannot be written.
        """
        params = {**filter_params(filters), "format": file_format}
        call = Call("GET", "/v1/inspections:export", params)
        await self._download(call, Path(file))

    async def heatmap(
        self, inspection_id: str, image_format: HeatmapFormat | None = None, *, legend: bool = False
    ) -> bytes:
        """Return the heatmap drawn over the image, as an encoded image in the given or the service's format.

        Args:
            inspection_id: Id of the inspection.
            image_format: Format of the image; None uses the format that is configured in the service.
            legend: Draw decision, score, thresholds and colour scale below the image.
        """
        params: dict[str, str] = {"format": image_format} if image_format else {}
        if legend:
            params["legend"] = "true"
        return await self._send(Call("GET", f"{inspection_path(inspection_id)}/heatmap", params))

    async def preview(self, inspection_id: str, layer: PreviewLayer = "image", *, max_side: int = 1024) -> bytes:
        """Return a small version of the image (JPEG), or of the heatmap alone (PNG with transparency).

        Args:
            inspection_id: Id of the inspection.
            layer: `image`, or `overlay` for the heatmap alone.
            max_side: Longest side in pixels, 64 to 2048. A smaller image is not enlarged.
        """
        params = {"layer": layer, "max_side": str(max_side)}
        return await self._send(Call("GET", f"{inspection_path(inspection_id)}/preview", params))

    async def anomaly_map(self, inspection_id: str) -> npt.NDArray[np.float32]:
        """Return the anomaly map, float32 `[h, w]`.

        Raises:
            MissingExtra: numpy is not installed; the extra `numpy` installs it.
        """
        require_numpy()
        call = Call("GET", f"{inspection_path(inspection_id)}/map")
        return parse_map(await self._send(call), self._url(call))

    async def image(self, inspection_id: str, *, as_png: bool = False) -> bytes:
        """Return the stored image: as it was sent, or with `as_png` as it was inspected, 8-bit RGB as a PNG."""
        params = {"format": "png"} if as_png else {}
        return await self._send(Call("GET", f"{inspection_path(inspection_id)}/image", params))

    async def replay(self, inspection_id: str) -> ReplayRecord:
        """Inspect a stored image again, with the bundle and the recipe that its inspection names, and compare."""
        return await self._load(ReplayRecord, Call("POST", f"{inspection_path(inspection_id)}:replay"))

    async def why(self, inspection_id: str, x: int | None = None, y: int | None = None) -> WhyRecord:
        """Return why a spot of an inspected image is unusual, and the nearest normal spots.

        Args:
            inspection_id: Id of the inspection.
            x: Column of a pixel of the image; needs `y` as well. None for the highest value of the judged area.
            y: Row of the pixel.
        """
        params = {name: str(value) for name, value in (("x", x), ("y", y)) if value is not None}
        return await self._load(WhyRecord, Call("GET", f"{inspection_path(inspection_id)}/why", params))
