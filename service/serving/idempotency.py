"""Idempotent inspections: a request that is sent again returns the inspection of the first one."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from sqlalchemy import Engine

from service.errors import DeadlineExceeded
from service.serving.image import Image
from service.store.errors import IdempotencyKeyUsed, KeyTaken, StoreUnavailable
from service.store.idempotency import IdempotencyKey, find_key
from service.store.ids import parse_id
from service.store.inspections import get_inspection
from service.store.records import InspectionRecord

_OF_THE_REQUEST = {"request_id", "traceparent"}


@dataclass(frozen=True)
class Inspected:
    """An inspection, and whether an earlier request with the same idempotency key made it."""

    record: InspectionRecord
    is_replayed: bool = False


def fingerprint(product: str, image: Image) -> str:
    """Return the SHA-256 of what a request asks for: product, image, part and buffer layout."""
    part = {name: str(value) for name, value in asdict(image.part).items() if name not in _OF_THE_REQUEST}
    described = json.dumps([product, part, asdict(image.buffer)], sort_keys=True)
    digest = hashlib.sha256(image.data)
    digest.update(described.encode())
    return digest.hexdigest()


class IdempotentRequests:
    """Runs the request of each idempotency key once.

    Within a process, a second request with the same key waits for the first one. Between processes, both inspect the
    image; the database stores one of the two inspections, and both requests return it.

    Args:
        engine: The database of keys and inspections.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], _Turn] = {}

    def run(
        self, key: IdempotencyKey, inspect: Callable[[], InspectionRecord], deadline: float, limit_s: float
    ) -> Inspected:
        """Return the inspection of a key; make it if there is none.

        Args:
            key: The key and the fingerprint of the request.
            inspect: Inspects the image and stores the inspection together with the key.
            deadline: Until when to wait for another request with the key, on the clock `time.perf_counter`.
            limit_s: The deadline in seconds, for the message.

        Raises:
            IdempotencyKeyUsed: The key belongs to a different request.
            DeadlineExceeded: The other request did not end in time.
            StoreUnavailable: The database cannot be used.
        """
        with self._turn(key, deadline, limit_s):
            found = self._find(key)
            if found is not None:
                return found
            try:
                return Inspected(inspect())
            except KeyTaken:
                found = self._find(key)
                if found is None:  # it was removed for its age in this moment
                    raise StoreUnavailable("the inspection of the idempotency key is gone") from None
                return found

    def _find(self, key: IdempotencyKey) -> Inspected | None:
        used = find_key(self._engine, key.principal, key.key)
        if used is None:
            return None
        if used.fingerprint != key.fingerprint:
            raise IdempotencyKeyUsed(used.inspection_id)
        return Inspected(get_inspection(self._engine, parse_id(used.inspection_id)), is_replayed=True)

    @contextmanager
    def _turn(self, key: IdempotencyKey, deadline: float, limit_s: float) -> Iterator[None]:
        name = key.principal, key.key
        with self._lock:
            turn = self._running.setdefault(name, _Turn())
            turn.users += 1
        try:
            if not turn.lock.acquire(timeout=max(0.0, deadline - time.perf_counter())):
                raise DeadlineExceeded(limit_s, 1.0)
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            with self._lock:
                turn.users -= 1
                if not turn.users:
                    del self._running[name]


class _Turn:
    """The lock of a key, and how many requests use it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
