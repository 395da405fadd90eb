"""Limits of attempts to log in, per account and per client, so that passwords cannot be found by trying."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from service.access.errors import TooManyLogins

MAX_NAMES = 10_000
PER_CLIENT = 5
"""A client may try all accounts together this many times as often as one: people share addresses behind a proxy."""
PER_ACCOUNT = 10
"""All clients together may try an account this many times as often as one client may.

If the attempts of one client counted for all clients, anyone could keep a person from logging in.
"""


class LoginThrottle:
    """Counts attempts in a sliding window. A successful log-in takes the attempts of its client for its account back.

    Unknown names count like accounts. The counts are in memory: each process has its own.

    Args:
        attempts: Most attempts of one client for one account in the window.
        window_s: Length of the window in seconds.
        clock: Returns seconds.
    """

    def __init__(self, attempts: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._attempts = attempts
        self._window_s = window_s
        self._clock = clock
        self._tried: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()
        self._hashes: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, account: str, client: str) -> None:
        """Count an attempt before the password is checked, so that attempts at the same time count, too.

        Args:
            account: The name, in comparable form.
            client: Identity of the client.

        Raises:
            TooManyLogins: The limit is reached. The attempt does not count.
        """
        now = self._clock()
        limits: tuple[tuple[tuple[str, ...], int], ...] = (
            (("account and client", account, client), self._attempts),
            (("client", client), PER_CLIENT * self._attempts),
            (("account", account), PER_ACCOUNT * self._attempts),
        )
        with self._lock:
            wait_s = max(self._wait_s(name, limit, now) for name, limit in limits)
            if wait_s > 0:
                raise TooManyLogins(wait_s)
            for name, _ in limits:
                self._tried.setdefault(name, deque()).append(now)
                self._tried.move_to_end(name)
            while len(self._tried) > MAX_NAMES:
                self._tried.popitem(last=False)

    def succeed(self, account: str, client: str) -> None:
        """Take back the attempts of the client for the account, and one of all attempts of each."""
        with self._lock:
            self._tried.pop(("account and client", account, client), None)
            for name in (("client", client), ("account", account)):
                if tried := self._tried.get(name):
                    tried.pop()

    def observe(self, account: str, password_hash: str | None) -> None:
        """Forget the attempts of all clients for an account if it got another password since the last call.

        The command line sets passwords in another process, so only the database shows it.

        Args:
            account: The name, in comparable form.
            password_hash: The stored hash; None if there is no such account.
        """
        if password_hash is None:
            return
        with self._lock:
            before = self._hashes.pop(account, password_hash)
            self._hashes[account] = password_hash
            if len(self._hashes) > MAX_NAMES:
                self._hashes.popitem(last=False)
            if before != password_hash:
                for name in [name for name in self._tried if name[0] != "client" and name[1] == account]:
                    del self._tried[name]

    def _wait_s(self, name: tuple[str, ...], limit: int, now: float) -> float:
        tried = self._tried.get(name)
        while tried and tried[0] <= now - self._window_s:
            tried.popleft()
        return 0.0 if not tried or len(tried) < limit else tried[0] + self._window_s - now
