"""Changes of keys and accounts by other processes that share the database.

Every change has an entry in the audit log, whose newest number is read together with the recipe revisions before each
inspection. If it is another one than before, the new entries are read, and what they revoke is refused from then on. So
an inspection is never made for a key that was revoked before its request arrived, whichever process revoked it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import get_args

from sqlalchemy import Engine

from service.access.cache import CredentialCache
from service.access.errors import InvalidKey, NotAuthenticated
from service.access.names import comparable
from service.store.access import find_account
from service.store.audit import AuditAction
from service.store.revisions import changed_objects, newest_audit_entry

_OF_KEYS = "key:"
_OF_SESSIONS = "session:log-out-everywhere"
_ACTIONS: tuple[AuditAction, ...] = tuple(
    action for action in get_args(AuditAction) if action.startswith((_OF_KEYS, "account:", _OF_SESSIONS))
)


class AccessChanges:
    """Puts changes of keys and accounts by other processes in force. All methods may be called by any thread.

    Args:
        engine: The database.
        cache: The verified credentials; those of changed keys and accounts are removed.
        on_created: Called with a reason when another process created a key or an account.

    Raises:
        StoreUnavailable: The database cannot be read.
    """

    def __init__(self, engine: Engine, cache: CredentialCache, on_created: Callable[[str], None]) -> None:
        self._engine = engine
        self._cache = cache
        self._on_created = on_created
        self._lock = threading.Lock()
        self._withdrawn: set[str] = set()
        self._known = newest_audit_entry(engine)

    def follow(self, newest: int) -> None:
        """Put all changes up to an entry of the audit log in force.

        Args:
            newest: Number of the entry.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        if newest <= self._known:
            return
        with self._lock:
            if newest <= self._known:
                return
            for action, changed in changed_objects(self._engine, _ACTIONS, self._known, newest):
                self._apply(action, changed)
            self._known = newest

    def require_valid(self, client: str) -> None:
        """Check that a client was not revoked or disabled since its credential was checked.

        Args:
            client: Identity of the client; see `service.api.http.clients.client_of`.

        Raises:
            InvalidKey: The key was revoked.
            NotAuthenticated: The account was disabled.
        """
        if client not in self._withdrawn:
            return
        if client.startswith("key "):
            raise InvalidKey("The API key was revoked.", was_valid=True)
        raise NotAuthenticated("The session has ended.")

    def _apply(self, action: AuditAction, changed: str) -> None:
        if action.endswith(":create"):
            self._on_created("another process created a key or an account")
        elif action.startswith(_OF_KEYS):
            self._withdrawn.add(f"key {changed}")
            self._cache.drop(changed)
        elif (account := find_account(self._engine, comparable(changed))) is not None:
            (self._withdrawn.discard if account.disabled_at is None else self._withdrawn.add)(f"account {account.id}")
            self._cache.drop(account.id)
