"""Which process delivers to a sink, if several processes share a PostgreSQL database.

Unlike row locks with SKIP LOCKED, a lease lets one process deliver all products of a sink in order without a
transaction that stays open while a receiver is slow, which would keep PostgreSQL from removing old row versions.
"""

from __future__ import annotations

from sqlalchemy import Engine

from service.store.advisory_locks import sink_lock
from service.store.leases import Leases


class SinkLeases(Leases):
    """The sinks that this process delivers to.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, sink_lock)
