"""The Python client of the service, sync and async.

```python
from plumbline_client import Client

with Client("http://127.0.0.1:8000") as line:
    verdict = line.inspect("washer", Path("part.jpg").read_bytes(), part_id="4711")
    print(verdict.decision, verdict.score)
    Path("heatmap.jpg").write_bytes(line.heatmap(verdict.id))
```

A service that has no capacity answers 503 and says when to come back; the client comes back by itself, a
bounded number of times. Every other failure is a `ServiceProblem` with the problem that the service
described.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import httpx
import numpy as np
import numpy.typing as npt

from plumbline_client.bundle_calls import AsyncBundleCalls, BundleCalls
from plumbline_client.calls import (
    Call,
    HeatmapFormat,
    batch_call,
    heatmap_call,
    image_call,
    inspect_call,
    page_call,
    propose_call,
)
from plumbline_client.calls import CameraBuffer as CameraBuffer  # part of the client's face
from plumbline_client.errors import ServiceProblem as ServiceProblem
from plumbline_client.errors import StreamClosed as StreamClosed
from plumbline_client.recipe_calls import AsyncRecipeCalls, RecipeCalls
from plumbline_client.schemas.batch import BatchAnswer
from plumbline_client.schemas.inspection import Inspection, InspectionPage
from plumbline_client.schemas.product import Product, ProductList, Readiness
from plumbline_client.schemas.proposal import Proposal
from plumbline_client.schemas.sections import DecisionName
from plumbline_client.stream_calls import AsyncStreamCalls, StreamCalls

Float32Map = npt.NDArray[np.float32]
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_RETRIES = 5
_UNSTATED_PAUSE_S = 1.0


def _pause_s(response: httpx.Response, attempts_left: int) -> float | None:
    """Seconds after which to try again, None where that is no use."""
    if response.status_code != 503 or attempts_left <= 0:
        return None
    # The problem knows tenths of seconds, the header only whole ones.
    stated = ServiceProblem.of(response).problem.get("retry_after", response.headers.get("retry-after"))
    try:
        return max(0.0, float(stated))
    except (TypeError, ValueError):
        return _UNSTATED_PAUSE_S


def _map(content: bytes) -> Float32Map:
    loaded: Float32Map = np.load(io.BytesIO(content), allow_pickle=False)
    return loaded


class Client(BundleCalls, RecipeCalls, StreamCalls):
    """Talks to one service.

    Args:
        base_url: For instance `http://127.0.0.1:8000`.
        timeout_s: Seconds that one attempt may take.
        retries: How often to come back after a 503, after the time that the service states.
        transport: Another way to reach the service than the network.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.retries = retries
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s, transport=transport)

    def inspect(
        self,
        product: str,
        image: bytes,
        *,
        part_id: str | None = None,
        station: str | None = None,
        lot: str | None = None,
        captured_at: datetime | None = None,
        buffer: CameraBuffer | None = None,
    ) -> Inspection:
        """Have an image judged.

        Args:
            product: What it shows.
            image: An encoded image, or the bytes of a camera buffer.
            part_id: Serial number of the part.
            station: Where the image was taken.
            lot: Lot or order that the part belongs to.
            captured_at: When it was taken, with time zone.
            buffer: The layout of the camera buffer; None where `image` is encoded.

        Raises:
            ServiceProblem: There is no verdict; it says why.
        """
        about = {"part_id": part_id, "station": station, "lot": lot, "captured_at": captured_at}
        return Inspection.model_validate_json(self._send(inspect_call(product, image, about, buffer)))

    def inspect_batch(
        self,
        product: str,
        images: Sequence[tuple[str, bytes]],
        *,
        part_id: str | None = None,
        station: str | None = None,
        lot: str | None = None,
        buffer: CameraBuffer | None = None,
    ) -> BatchAnswer:
        """Have several images judged in one call.

        Args:
            product: What they show.
            images: Name and bytes of each; names come back with the answers.
            part_id: Serial number of the part that they show.
            station: Where the images were taken.
            lot: Lot or order that the part belongs to.
            buffer: The layout of camera buffers; None where the images are encoded.

        Returns:
            For each image, in their order, the inspection or the problem.

        Raises:
            ServiceProblem: The call as a whole was refused.
        """
        about = {"part_id": part_id, "station": station, "lot": lot}
        return BatchAnswer.model_validate_json(self._send(batch_call(product, images, about, buffer)))

    def inspection(self, inspection_id: str) -> Inspection:
        """A stored inspection."""
        return Inspection.model_validate_json(self._send(Call("GET", f"/v1/inspections/{inspection_id}")))

    def inspections(
        self,
        *,
        product: str | None = None,
        decision: DecisionName | None = None,
        part_id: str | None = None,
        page_size: int = 100,
    ) -> Iterator[Inspection]:
        """Stored inspections, newest first, page by page as they are consumed."""
        cursor: str | None = None
        which = {"product": product, "decision": decision, "part_id": part_id}
        while True:
            page = InspectionPage.model_validate_json(self._send(page_call(cursor, page_size, which)))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def heatmap(self, inspection_id: str, image_format: HeatmapFormat | None = None) -> bytes:
        """The heatmap over the image, encoded."""
        return self._send(heatmap_call(inspection_id, image_format))

    def anomaly_map(self, inspection_id: str) -> Float32Map:
        """The anomaly map, float32 [h, w]."""
        return _map(self._send(Call("GET", f"/v1/inspections/{inspection_id}/map")))

    def image(self, inspection_id: str, *, as_png: bool = False) -> bytes:
        """The image as it was sent, or as it was judged: 8 bits RGB, as a PNG."""
        return self._send(image_call(inspection_id, as_png))

    def products(self) -> list[Product]:
        """Every product of the service."""
        return ProductList.model_validate_json(self._send(Call("GET", "/v1/products"))).items

    def product(self, product: str) -> Product:
        """One product."""
        return Product.model_validate_json(self._send(Call("GET", f"/v1/products/{product}")))

    def propose_thresholds(
        self,
        product: str,
        *,
        author: str,
        target_false_reject_rate: float,
        review_rate: float | None = None,
        confidence: float | None = None,
        replay: int | None = None,
        ids: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        images: Sequence[tuple[str, bytes]] | None = None,
        archive: bytes | None = None,
    ) -> Proposal:
        """Derive thresholds from good images: of the calibration card, or of stored inspections that are declared
        good, by `ids` or from `since` until `until`, or of images, as pairs of name and bytes or as a zip file. Apply
        them with `change_recipe(proposal_id=...)`.
        """
        wish = {
            "author": author,
            "target_false_reject_rate": target_false_reject_rate,
            "review_rate": review_rate,
            "confidence": confidence,
            "replay": replay,
        }
        selected = {"ids": None if ids is None else list(ids), "since": since, "until": until}
        return Proposal.model_validate_json(self._send(propose_call(product, wish, selected, images, archive)))

    def readiness(self) -> Readiness:
        """Whether the service takes images, and if not, why. Never retries."""
        return Readiness.model_validate_json(self._http.get("/health/ready").content)

    def close(self) -> None:
        self._http.close()

    @property
    def _base_url(self) -> str:
        return str(self._http.base_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: Call) -> bytes:
        attempts_left = self.retries
        while True:
            response = self._http.request(call.method, call.path, **call.arguments())
            if response.is_success:
                return response.content
            pause_s = _pause_s(response, attempts_left)
            if pause_s is None:
                raise ServiceProblem.of(response)
            attempts_left -= 1
            time.sleep(pause_s)


class AsyncClient(AsyncBundleCalls, AsyncRecipeCalls, AsyncStreamCalls):
    """As `Client`, for programs with an event loop.

    Args:
        base_url: For instance `http://127.0.0.1:8000`.
        timeout_s: Seconds that one attempt may take.
        retries: How often to come back after a 503, after the time that the service states.
        transport: Another way to reach the service than the network.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.retries = retries
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout_s, transport=transport)

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
    ) -> Inspection:
        """As `Client.inspect`."""
        about = {"part_id": part_id, "station": station, "lot": lot, "captured_at": captured_at}
        return Inspection.model_validate_json(await self._send(inspect_call(product, image, about, buffer)))

    async def inspect_batch(
        self,
        product: str,
        images: Sequence[tuple[str, bytes]],
        *,
        part_id: str | None = None,
        station: str | None = None,
        lot: str | None = None,
        buffer: CameraBuffer | None = None,
    ) -> BatchAnswer:
        """As `Client.inspect_batch`."""
        about = {"part_id": part_id, "station": station, "lot": lot}
        return BatchAnswer.model_validate_json(await self._send(batch_call(product, images, about, buffer)))

    async def inspection(self, inspection_id: str) -> Inspection:
        """As `Client.inspection`."""
        call = Call("GET", f"/v1/inspections/{inspection_id}")
        return Inspection.model_validate_json(await self._send(call))

    async def inspections(
        self,
        *,
        product: str | None = None,
        decision: DecisionName | None = None,
        part_id: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Inspection]:
        """As `Client.inspections`."""
        cursor: str | None = None
        which = {"product": product, "decision": decision, "part_id": part_id}
        while True:
            page = InspectionPage.model_validate_json(await self._send(page_call(cursor, page_size, which)))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    async def heatmap(self, inspection_id: str, image_format: HeatmapFormat | None = None) -> bytes:
        """As `Client.heatmap`."""
        return await self._send(heatmap_call(inspection_id, image_format))

    async def anomaly_map(self, inspection_id: str) -> Float32Map:
        """As `Client.anomaly_map`."""
        return _map(await self._send(Call("GET", f"/v1/inspections/{inspection_id}/map")))

    async def image(self, inspection_id: str, *, as_png: bool = False) -> bytes:
        """As `Client.image`."""
        return await self._send(image_call(inspection_id, as_png))

    async def products(self) -> list[Product]:
        """As `Client.products`."""
        return ProductList.model_validate_json(await self._send(Call("GET", "/v1/products"))).items

    async def product(self, product: str) -> Product:
        """As `Client.product`."""
        return Product.model_validate_json(await self._send(Call("GET", f"/v1/products/{product}")))

    async def propose_thresholds(
        self,
        product: str,
        *,
        author: str,
        target_false_reject_rate: float,
        review_rate: float | None = None,
        confidence: float | None = None,
        replay: int | None = None,
        ids: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        images: Sequence[tuple[str, bytes]] | None = None,
        archive: bytes | None = None,
    ) -> Proposal:
        """As `Client.propose_thresholds`."""
        wish = {
            "author": author,
            "target_false_reject_rate": target_false_reject_rate,
            "review_rate": review_rate,
            "confidence": confidence,
            "replay": replay,
        }
        selected = {"ids": None if ids is None else list(ids), "since": since, "until": until}
        return Proposal.model_validate_json(await self._send(propose_call(product, wish, selected, images, archive)))

    async def readiness(self) -> Readiness:
        """As `Client.readiness`."""
        return Readiness.model_validate_json((await self._http.get("/health/ready")).content)

    async def aclose(self) -> None:
        await self._http.aclose()

    @property
    def _base_url(self) -> str:
        return str(self._http.base_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call) -> bytes:
        attempts_left = self.retries
        while True:
            response = await self._http.request(call.method, call.path, **call.arguments())
            if response.is_success:
                return response.content
            pause_s = _pause_s(response, attempts_left)
            if pause_s is None:
                raise ServiceProblem.of(response)
            attempts_left -= 1
            await asyncio.sleep(pause_s)
