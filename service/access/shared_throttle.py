"""Limits of attempts to log in that all processes with the same PostgreSQL database share."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from datetime import timedelta
from typing import Protocol

import structlog
from sqlalchemy import Engine

from service.access.errors import TooManyLogins
from service.access.throttle import MAX_NAMES, PER_ACCOUNT, PER_CLIENT, LoginThrottle
from service.store.errors import StoreUnavailable
from service.store.login_attempts import LoginAttempt, LoginLimits, count_attempt, take_back_attempt

log = structlog.get_logger(__name__)

# 40 bits: two accounts hardly share one. The digests keep names out of the table, but hide no name that can be guessed.
_DIGEST_DIGITS = 10


class Throttle(Protocol):
    """Counts attempts to log in; see `LoginThrottle`. The methods may block."""

    def count(self, account: str, client: str) -> None:
        """Count an attempt before the password is checked; raise `TooManyLogins` if a limit is reached."""

    def succeed(self, account: str, client: str) -> None:
        """Take back the attempts of the client for the account, and one of all attempts of each."""

    def observe(self, account: str, password_hash: str | None) -> None:
        """Forget the attempts of all clients for an account if it got another password since the last call."""


class SharedLoginThrottle:
    """Counts attempts in a sliding window in the database, so that trying several processes gives no more attempts.

    Args:
        engine: A PostgreSQL database.
        attempts: Most attempts of one client for one account in the window.
        window_s: Length of the window in seconds.
    """

    def __init__(self, engine: Engine, attempts: int, window_s: float) -> None:
        self._engine = engine
        window = timedelta(seconds=window_s)
        self._limits = LoginLimits(attempts, PER_CLIENT * attempts, PER_ACCOUNT * attempts, window)
        self._passwords: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, account: str, client: str) -> None:
        """Count an attempt before the password is checked, so that attempts at the same time count, too.

        Args:
            account: The name, in comparable form. `observe` was called for it before.
            client: Identity of the client.

        Raises:
            TooManyLogins: The limit is reached. The attempt does not count.
            StoreUnavailable: The database cannot be used.
        """
        with self._lock:
            password = self._passwords.get(account, "")
        wait_s = count_attempt(self._engine, LoginAttempt(_digest(account), _digest(client), password), self._limits)
        if wait_s > 0:
            raise TooManyLogins(wait_s)

    def succeed(self, account: str, client: str) -> None:
        """Take back the attempts of the client for the account. If the database fails, they keep counting."""
        try:
            take_back_attempt(self._engine, _digest(account), _digest(client))
        except StoreUnavailable as error:
            log.warning("attempts to log in not taken back", reason=error.reason)

    def observe(self, account: str, password_hash: str | None) -> None:
        """Note which password an account has: attempts with another one do not count for it.

        Args:
            account: The name, in comparable form.
            password_hash: The stored hash; None if there is no such account.
        """
        with self._lock:
            self._passwords[account] = "" if password_hash is None else _digest(password_hash)
            self._passwords.move_to_end(account)
            if len(self._passwords) > MAX_NAMES:
                self._passwords.popitem(last=False)


def make_throttle(engine: Engine, attempts: int, window_s: float) -> Throttle:
    """Return what counts attempts to log in: in the database if other processes can share it, otherwise in memory.

    Args:
        engine: The database.
        attempts: Most attempts of one client for one account in the window.
        window_s: Length of the window in seconds.
    """
    if engine.dialect.name == "postgresql":
        return SharedLoginThrottle(engine, attempts, window_s)
    return LoginThrottle(attempts, window_s)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:_DIGEST_DIGITS]
