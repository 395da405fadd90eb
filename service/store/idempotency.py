"""Idempotency keys: a request that a client sends again returns the inspection of the first one.

The key is inserted in the same transaction as the inspection, so after a crash either both exist or neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, bindparam, delete, insert, select

from service.store.models import IdempotencyRow
from service.store.session import querying, transaction

# Core statements that are built once, because they run for each inspection with a key.
INSERT_KEYS = insert(IdempotencyRow.__table__)  # type: ignore[arg-type]  # a Table, though declared as FromClause
_FIND = select(IdempotencyRow.fingerprint, IdempotencyRow.inspection_id).where(
    IdempotencyRow.principal == bindparam("of"), IdempotencyRow.key == bindparam("used")
)


@dataclass(frozen=True)
class IdempotencyKey:
    """The key of a request and what the request asks for.

    Attributes:
        principal: Id of the principal that sent it. Keys of different principals are independent.
        key: The key that the client chose.
        fingerprint: SHA-256 of the request in hexadecimal digits, to detect a key that is used for another request.
    """

    principal: str
    key: str
    fingerprint: str

    def columns(self, inspection_id: str, created_at: datetime) -> dict[str, object]:
        """Return the row that connects the key with an inspection."""
        return {
            "principal": self.principal,
            "key": self.key,
            "fingerprint": self.fingerprint,
            "inspection_id": inspection_id,
            "created_at": created_at,
        }


@dataclass(frozen=True)
class UsedKey:
    """A key that was used, and the inspection that it belongs to."""

    fingerprint: str
    inspection_id: str


def find_key(engine: Engine, principal: str, key: str) -> UsedKey | None:
    """Return how a key was used, or None if it was not.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with querying(engine) as connection:
        row = connection.execute(_FIND, {"of": principal, "used": key}).one_or_none()
    return None if row is None else UsedKey(*row)


def remove_keys(engine: Engine, before: datetime) -> int:
    """Delete the keys of requests before a time, and return how many there were.

    Raises:
        StoreUnavailable: The database cannot be changed.
    """
    with transaction(engine, "old idempotency keys cannot be removed") as connection:
        return connection.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < before)).rowcount
