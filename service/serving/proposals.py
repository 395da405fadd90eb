"""Threshold proposals: compute them from good images, one at a time, and read stored ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

from service.deployment.lease import ActiveProduct
from service.deployment.registry import Registry
from service.errors import InvalidRequest
from service.proposals.known_images import refuse_known_images
from service.schemas.proposal import Proposal
from service.serving.batch import Frame
from service.serving.errors import ProposalsBusy
from service.serving.pagination import Page, read_page
from service.serving.proposer import MeasuredImage, ProposalTask, Proposer, to_good_images
from service.store.proposals import get_proposal, list_proposals
from service.store.store import Store


class ProposalService:
    """Computes and reads proposals.

    Images are measured on one thread and one at a time, so that an inspection waits for at most one of them.

    Args:
        registry: Products and the bundles that serve them.
        store: Stores proposals and inspections.
    """

    def __init__(self, registry: Registry, store: Store) -> None:
        self._registry = registry
        self._store = store
        self._proposer = Proposer(store)
        self._is_busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposal")

    def active(self, product: str) -> ActiveProduct:
        """Return the bundle and recipe that a proposal is computed for.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
        """
        return self._registry.get(product)

    async def propose(self, active: ActiveProduct, task: ProposalTask) -> Proposal:
        """Compute and store a proposal from the calibration card or from stored inspections.

        Args:
            active: Bundle and recipe of the product.
            task: What to propose.

        Raises:
            ProposalsBusy: Another proposal is being computed.
            InvalidRequest: There are no good images, or too many, or the bundle was made from some of them.
            InvalidRecipe: The rates are not possible.
            UnknownInspection, ArtefactGone: A selected inspection does not exist or its image is no longer stored.
            QueueFull, DeadlineExceeded, ShuttingDown: The images cannot be measured now.
            ProductNotReady: Another bundle was activated while the images were measured.
            StoreUnavailable: The database cannot be used.
        """
        with self.reserve():
            return await asyncio.wrap_future(self._thread.submit(self._proposer.propose, active, task))

    async def propose_from(self, active: ActiveProduct, task: ProposalTask, frames: AsyncIterator[Frame]) -> Proposal:
        """Measure images of good parts as they arrive; compute and store a proposal from them.

        Args:
            active: Bundle and recipe of the product.
            task: What to propose.
            frames: The images. Days are distinguished by their labels.

        Raises:
            ProposalsBusy: Another proposal is being computed.
            InvalidRequest: An image cannot be used (the message names it), the bundle was made from some of the images,
                or there are no images.
            InvalidRecipe, StoreUnavailable, ShuttingDown, ProductNotReady: See `propose`.
        """
        loop = asyncio.get_running_loop()
        measured: dict[str, MeasuredImage] = {}
        rejected: list[str] = []
        sent: list[tuple[str, str]] = []
        count = 0
        with self.reserve():
            async for frame in frames:
                count += 1
                try:
                    image = await loop.run_in_executor(self._thread, self._proposer.measure, active, frame, count)
                finally:
                    frame.release()
                sent.append((image.name, image.sha256))
                if image.score is None:
                    rejected.append(image.name)
                else:
                    measured.setdefault(image.sha256, image)
            refuse_known_images(active.bundle.images, sent)
            if not measured:
                raise InvalidRequest(
                    f"All {count} images were rejected by the quality check. Check the images and the recipe's quality "
                    "limits."
                    if rejected
                    else "The request contains no image. Send several files in the form field `image`, or a zip file."
                )
            images = to_good_images(
                list(measured.values()),
                count - len(rejected) - len(measured),
                rejected,
                compared=active.bundle.images is not None,
            )
            return await loop.run_in_executor(self._thread, self._proposer.derive, active, task, images)

    def list_stored(self, product: str, before: UUID | None, limit: int) -> Page[Proposal]:
        """Return a page of stored proposals, newest first.

        Args:
            product: Name of the product.
            before: Return only proposals older than this id.
            limit: Maximum number of proposals.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be used.
        """
        self._registry.products.look_up(product)
        return read_page(lambda count: list_proposals(self._store.engine, product, before=before, limit=count), limit)

    def get(self, product: str, proposal_id: str) -> Proposal:
        """Return a stored proposal.

        Raises:
            UnknownProduct, UnknownProposal: It does not exist.
            StoreUnavailable: The database cannot be used.
        """
        self._registry.products.look_up(product)
        return get_proposal(self._store.engine, product, proposal_id).proposal

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Exclude other proposals until the block ends. It must be used from the event loop only.

        Raises:
            ProposalsBusy: Another proposal is being computed.
        """
        if self._is_busy:
            raise ProposalsBusy
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def close(self) -> None:
        """Complete the submitted work and stop the thread."""
        self._thread.shutdown()
