"""Explanations of stored inspections on request, one at a time and at lower priority than inspections."""

from __future__ import annotations

import asyncio
import contextlib

from service.deployment.explanations import Explanations, Why
from service.deployment.registry import Registry
from service.serving.admission import Disconnected
from service.serving.drawing import DrawingThreads
from service.settings import Settings
from service.store.errors import NotJudged
from service.store.records import InspectionRecord
from service.store.store import Store

RELEASE_AFTER_S = 60.0
"""Seconds without a request after which the memory of the graphs is returned."""


class ExplanationService:
    """Explains the anomaly maps of stored inspections.

    Args:
        settings: The limit of requests in flight and their deadline.
        registry: Location of the model repository, and the loader of bundles.
        store: Stored inspections and their files.
    """

    def __init__(self, settings: Settings, registry: Registry, store: Store) -> None:
        self._drawings = DrawingThreads(
            "explanation", 1, settings.queue_limit, settings.queue_deadline_s, is_background=True
        )
        # Used on the one thread only.
        self._explanations = Explanations(registry.source, store, registry.loader, in_background=True)
        self._release: asyncio.TimerHandle | None = None

    async def explain(
        self,
        record: InspectionRecord,
        point: tuple[int, int] | None,
        client: str,
        disconnected: Disconnected | None = None,
    ) -> Why:
        """Explain a spot of a stored inspection.

        Args:
            record: The inspection.
            point: Column and row of a pixel of the image. None: the highest value of the judged area.
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.

        Raises:
            NotJudged, ArtefactGone, StoredImageUnreadable, InvalidRequest, NoExplanation, ExplanationDiffers,
                UnknownBundle, UnknownRevision, BundleInvalid, ProviderUnavailable, StoreUnavailable: As for
                `Explanations.explain`.
            QueueFull, DeadlineExceeded, ShuttingDown: The image cannot be explained now.
        """
        if record.objections:
            raise NotJudged(record.id)
        try:
            async with self._drawings.turn(record.id, client, disconnected) as deadline:
                return await self._drawings.run(
                    deadline, lambda: self._explanations.explain(record, point, deadline.check)
                )
        finally:
            self._release_later()

    def close(self) -> None:
        """Complete the submitted work, stop the thread, and free the memory."""
        if self._release is not None:
            self._release.cancel()
        self._drawings.close()
        self._explanations.release()

    def _release_later(self) -> None:
        if self._release is not None:
            self._release.cancel()
        loop = asyncio.get_running_loop()
        self._release = loop.call_later(RELEASE_AFTER_S, self._submit_release)

    def _submit_release(self) -> None:
        with contextlib.suppress(RuntimeError):  # the service is closing, which frees the memory as well
            self._drawings.pool.submit(self._explanations.release)
