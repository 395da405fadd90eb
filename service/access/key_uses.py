"""When API keys were used last, stored at most once per interval."""

from __future__ import annotations

import contextlib
from concurrent.futures import Executor
from datetime import UTC, datetime

import structlog
from sqlalchemy import Engine

from service.access import keys
from service.store.errors import StoreUnavailable

log = structlog.get_logger(__name__)


class KeyUses:
    """Stores when keys were used. No request waits for it.

    Args:
        engine: The database.
        executor: Runs what writes to the database.
    """

    def __init__(self, engine: Engine, executor: Executor) -> None:
        self._engine = engine
        self._executor = executor
        self._used: dict[str, datetime] = {}

    def record(self, key_id: str) -> None:
        """Record that a key was used now, unless that was recorded a short time ago."""
        now, before = datetime.now(UTC), self._used.get(key_id)
        if before is not None and now - before < keys.USED_INTERVAL:
            return
        self._used[key_id] = now
        with contextlib.suppress(RuntimeError):  # the service is stopping
            self._executor.submit(self._store, key_id)

    def _store(self, key_id: str) -> None:
        try:
            keys.record_use(self._engine, key_id)
        except StoreUnavailable as error:
            log.debug("use of a key not recorded", key=key_id, reason=error.reason)
