"""The numbers of PostgreSQL's advisory locks.

All locks of a database share one space of signed 64-bit numbers. The locks that have a name, such as those of sinks,
are negative, all others positive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import IntEnum, unique


@unique
class AdvisoryLock(IntEnum):
    """The locks that exist once per database. No other program may use these numbers in the same database."""

    MIGRATION = 0x706C756D62
    """Held while the tables are created or migrated."""
    AUDIT = 0x706C756D63
    """Held by a transaction that appends to the audit log."""
    ACCOUNTS = 0x706C756D64
    """Held by a transaction that changes accounts, so that the last administrator remains."""
    LOGINS = 0x706C756D65
    """Held by a transaction that counts an attempt to log in."""


LockNumber = Callable[[str], int]
"""Returns the number of the lock that belongs to a name."""


def sink_lock(sink: str) -> int:
    """Return the number of the lock that a process holds while it delivers to a sink."""
    return _number(f"plumbline sink {sink}")


def job_lock(job: str) -> int:
    """Return the number of the lock that a process holds while it does a job that only one process may do."""
    return _number(f"plumbline job {job}")


def bundle_lock(digest: str) -> int:
    """Return the number of the lock of a transaction that deploys a bundle, adds it to the store, or removes it."""
    return _number(f"plumbline bundle {digest}")


def _number(name: str) -> int:
    digest = hashlib.sha256(name.encode()).digest()
    return -1 - (int.from_bytes(digest[:8], "big") >> 1)
