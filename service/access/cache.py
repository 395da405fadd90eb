"""Credentials that were verified a short time ago, so that a request does not pay for argon2 and the database."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from service.access.principal import Principal

FRESH_S = 0.5
"""Seconds after which the row of a credential is read again, so that changes by other processes take effect."""
LONGEST_S = 1.0
"""Seconds that a credential is accepted at most without reading its row, while another request reads it."""
VERIFIED_S = 300.0
"""Seconds after which the secret is compared with its hash again."""
MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Identity:
    """A verified credential.

    Attributes:
        principal: Who it belongs to.
        stored_hash: The stored hash that it was compared with.
        expires_at: When it expires; None for never.
        csrf_token: CSRF token of a session; None for a key.
        token_hash: SHA-256 of the token of a session, which names the session; None for a key.
    """

    principal: Principal
    stored_hash: str
    expires_at: datetime | None
    csrf_token: str | None = None
    token_hash: str | None = None

    @property
    def has_expired(self) -> bool:
        """Whether the credential has expired."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


class _Entry:
    def __init__(self, identity: Identity, now: float, verified_at: float) -> None:
        self.identity = identity
        self.checked_at = now
        self.verified_at = verified_at
        self.is_checking = False


class CredentialCache:
    """Verified credentials by a keyed hash of the credential, with a random key of this process.

    The memory of the process contains no credential and nothing that can be compared with one elsewhere.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._drops = 0

    def digest(self, credential: str) -> bytes:
        """Return the keyed hash of a credential."""
        return hmac.digest(self._key, credential.encode(), "sha256")

    def get(self, digest: bytes) -> Identity | None:
        """Return a credential that needs no check; None if the caller must check it.

        While one caller checks, the others may use what was checked at most `LONGEST_S` ago.
        """
        now = self._clock()
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                return None
            age_s = now - entry.checked_at
            if age_s <= FRESH_S or (age_s <= LONGEST_S and entry.is_checking):
                return entry.identity
            entry.is_checking = True
            return None

    def verified(self, digest: bytes) -> Identity | None:
        """Return a credential whose secret was compared with its hash within `VERIFIED_S`; its row may have changed."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None or self._clock() - entry.verified_at > VERIFIED_S:
                return None
            return entry.identity

    def begin(self) -> tuple[int, float]:
        """Start a check; pass the result to `put`, which ignores a check that began before a `drop`."""
        with self._lock:
            return self._drops, self._clock()

    def put(self, begun: tuple[int, float], digest: bytes, identity: Identity) -> None:
        """Store the result of a successful check. Its age counts from the start of the check."""
        drops, now = begun
        with self._lock:
            if drops != self._drops:
                return
            before = self._entries.pop(digest, None)
            is_same = before is not None and before.identity.stored_hash == identity.stored_hash
            verified_at = before.verified_at if before is not None and is_same else now
            if now - verified_at > VERIFIED_S:
                verified_at = now
            self._entries[digest] = _Entry(identity, now, verified_at)
            while len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)

    def forget(self, digest: bytes) -> None:
        """Remove a credential whose check failed."""
        with self._lock:
            self._entries.pop(digest, None)

    def drop(self, principal_id: str) -> None:
        """Remove all credentials of a key or an account, and ignore checks that are in progress."""
        with self._lock:
            self._drops += 1
            for digest in [key for key, entry in self._entries.items() if entry.identity.principal.id == principal_id]:
                del self._entries[digest]
