"""Replay of a stored inspection on request, one at a time."""

from __future__ import annotations

import asyncio

from starlette.concurrency import run_in_threadpool

from service.deployment.errors import ReplayBusy
from service.deployment.registry import Registry
from service.deployment.replay import Replay, Replayer
from service.inspection.runtime.threads import run_in_background
from service.store.records import InspectionRecord
from service.store.store import Store


class ReplayService:
    """Replays inspections with the bundle and the recipe revision that they name.

    The bundle is loaded for the replay and unloaded afterwards, on threads with a lower priority than inspections.

    Args:
        registry: Location of the model repository and the options of sessions.
        store: Stored inspections and their images.
    """

    def __init__(self, registry: Registry, store: Store) -> None:
        self._registry = registry
        self._store = store
        self._running = asyncio.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether an inspection is being replayed."""
        return self._running.locked()

    async def replay(self, record: InspectionRecord) -> Replay:
        """Judge the stored image again. Nothing is changed or stored.

        Raises:
            ReplayBusy: Another inspection is being replayed.
            ArtefactGone, StoredImageUnreadable: The image is no longer stored, or cannot be decoded.
            UnknownBundle, UnknownRevision: The bundle or the recipe revision no longer exists.
            BundleInvalid, ProviderUnavailable, BundleStoreUnavailable: The bundle cannot be loaded.
            NotJudged: The image is invalid and was not judged.
            StoreUnavailable: The database cannot be used.
        """
        if self.is_busy:
            raise ReplayBusy
        async with self._running:
            return await run_in_threadpool(run_in_background, lambda: self._replay(record))

    def _replay(self, record: InspectionRecord) -> Replay:
        with Replayer(self._registry.source, self._store, self._registry.loader) as replayer:
            return replayer.replay(record)
