"""Failed attempts to log in, in the audit log."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import structlog
from sqlalchemy import Engine

from service.access.names import comparable
from service.store.access import find_account
from service.store.audit import Actor, AuditEntry, record_change
from service.store.errors import StoreUnavailable

log = structlog.get_logger(__name__)

PER_MINUTE = 5
"""Most entries per minute for one account, and for all names without an account together."""
UNKNOWN = "unknown account"
"""What is recorded instead of a name without an account. It could be a password that was typed as the name."""
_WINDOW_S = 60.0


class FailedLogins:
    """Records failed attempts to log in. Their number is bounded, so that they cannot flood the audit log.

    An entry states how many attempts were not recorded since the entry before it. Each process counts on its own.

    Args:
        engine: The database.
        clock: Returns seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        # By names of accounts that exist, so their number is limited.
        self._recorded: dict[str, deque[float]] = {}
        self._left_out: dict[str, int] = {}
        self._lock = threading.Lock()

    def record(self, name: str, sender: Actor) -> None:
        """Record an attempt, if the limit permits. If the database fails, the attempt is logged only.

        Args:
            name: The name that was sent.
            sender: From where it was sent.
        """
        try:
            account = find_account(self._engine, comparable(name))
            known = UNKNOWN if account is None else account.name
            left_out = self._admit(known)
            if left_out is None:
                return
            after = {} if account is None else account.facts
            entry = AuditEntry(sender, "session:log-in-failed", object=known, after=after | {"not_recorded": left_out})
            record_change(self._engine, entry)
        except StoreUnavailable as error:
            log.warning("failed log-in not recorded", address=sender.address, reason=error.reason)
        except Exception:  # no caller waits for the result
            log.exception("failed log-in not recorded", address=sender.address)

    def _admit(self, known: str) -> int | None:
        """Return how many attempts were not recorded since the last entry; None if this one is not, either."""
        now = self._clock()
        with self._lock:
            recorded = self._recorded.setdefault(known, deque())
            while recorded and recorded[0] <= now - _WINDOW_S:
                recorded.popleft()
            if len(recorded) >= PER_MINUTE:
                self._left_out[known] = self._left_out.get(known, 0) + 1
                return None
            recorded.append(now)
            return self._left_out.pop(known, 0)
