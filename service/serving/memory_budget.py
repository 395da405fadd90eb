"""A budget of memory for bodies in flight, shared fairly between clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from service.errors import MemoryBudgetExceeded

_POLL_S = 0.02
_SLOW_BYTES_PER_S = 64 * 2**10
_SLOW_AFTER_S = 1.0


class Reservation:
    """Memory that is reserved for one body.

    Args:
        budget: The budget.
        client: Identity of the client.

    Attributes:
        size: Reserved bytes.
        received: Bytes of the body that have arrived. A body that arrives slowly is revoked first.
    """

    def __init__(self, budget: MemoryBudget, client: str) -> None:
        self.client = client
        self.size = 0
        self.received = 0
        self._budget = budget
        self._started = time.monotonic()
        self._on_revoke: Callable[[], None] | None = None

    @property
    def is_revocable(self) -> bool:
        """Whether the memory can be taken away, because the body is still being received."""
        return self._on_revoke is not None and self.size > 0

    @property
    def is_slow(self) -> bool:
        """Whether the body has arrived slowly for some time."""
        age_s = time.monotonic() - self._started
        return age_s > _SLOW_AFTER_S and self.received < _SLOW_BYTES_PER_S * age_s

    def set_revocable(self, on_revoke: Callable[[], None] | None) -> None:
        """Set the function that is called when the memory is taken away; None means that it stays reserved."""
        self._on_revoke = on_revoke

    def grow(self, size: int) -> None:
        """Reserve more bytes.

        Raises:
            MemoryBudgetExceeded: They do not fit into the budget.
        """
        self._budget.take(self, size)

    async def grow_when_free(self, size: int, timeout_s: float) -> None:
        """Reserve more bytes; wait while they do not fit into the budget.

        Raises:
            MemoryBudgetExceeded: They did not fit during the whole wait.
        """
        give_up = time.monotonic() + timeout_s
        while True:
            try:
                self.grow(size)
            except MemoryBudgetExceeded:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_POLL_S)
            else:
                return

    def release(self, size: int | None = None) -> None:
        """Give back some bytes; None gives back all."""
        self._budget.give_back(self, self.size if size is None else min(size, self.size))

    def revoke(self) -> None:
        """Take the memory away and report it to the holder."""
        on_revoke, self._on_revoke = self._on_revoke, None
        self.release()
        if on_revoke is not None:
            on_revoke()


class MemoryBudget:
    """A bound on the memory of all bodies in flight.

    If a body does not fit, memory is taken from bodies that are still being received: from those that arrive slowly,
    then from the client with the largest share if that is larger than the share of the new body's client.

    It must be used from the event loop only.

    Args:
        limit_bytes: The bound in bytes.

    Attributes:
        used: Reserved bytes.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used = 0
        self._by_client: dict[str, int] = {}
        self._open: dict[Reservation, None] = {}

    def reserve(self, client: str, size: int) -> Reservation:
        """Reserve memory for a body.

        Args:
            client: Identity of the client.
            size: Bytes; 0 for a body of unknown size, which grows.

        Raises:
            MemoryBudgetExceeded: The body does not fit into the budget.
        """
        reservation = Reservation(self, client)
        self.take(reservation, size)
        return reservation

    def take(self, reservation: Reservation, size: int) -> None:
        """Reserve more bytes; see `Reservation.grow`."""
        if self.used + size > self.limit_bytes:
            self._revoke_for(reservation, size)
        if self.used + size > self.limit_bytes:
            raise MemoryBudgetExceeded(self.limit_bytes)
        self._add(reservation, size)

    def give_back(self, reservation: Reservation, size: int) -> None:
        """Give back bytes; see `Reservation.release`."""
        self._add(reservation, -size)

    def _add(self, reservation: Reservation, size: int) -> None:
        reservation.size += size
        self.used += size
        share = self._by_client.get(reservation.client, 0) + size
        if share:
            self._by_client[reservation.client] = share
        else:
            self._by_client.pop(reservation.client, None)
        if reservation.size:
            self._open[reservation] = None
        else:
            self._open.pop(reservation, None)

    def _revoke_for(self, newcomer: Reservation, size: int) -> None:
        # Only if it helps: no body is refused for one that does not fit even then.
        victims: list[Reservation] = []
        missing = self.used + size - self.limit_bytes
        own_share = self._by_client.get(newcomer.client, 0) + size
        shares = dict(self._by_client)
        others = [body for body in self._open if body is not newcomer and body.is_revocable]
        slow = [body for body in others if body.is_slow]
        for body in slow:
            if missing <= 0:
                break
            victims.append(body)
            shares[body.client] -= body.size
            missing -= body.size
        # The newest bodies first: the least work is lost.
        rest = [body for body in reversed(others) if body not in victims]
        while missing > 0:
            if not rest:
                return
            body = max(rest, key=lambda body: shares[body.client])
            if shares[body.client] <= own_share:
                return
            rest.remove(body)
            victims.append(body)
            shares[body.client] -= body.size
            missing -= body.size
        for body in victims:
            body.revoke()
