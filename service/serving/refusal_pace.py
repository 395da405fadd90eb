"""Pace of refusals, so that clients that send again at once do not use the processor for refusals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_GRACE_S = 1.0
_MAX_HOLD_S = 5.0
_MAX_HELD = 256
_PRUNE_S = 0.5
_RETURN_S = 1.0  # the header `Retry-After` has whole seconds, so clients return up to a second after their slot


class RefusalPace:
    """Spaces the refusals of each client, so that there are as many refusals as completed requests.

    Every refusal takes the next slot of its client. The slots of all refused clients together are as frequent as
    places become free, so a client that obeys `Retry-After` returns at its slot and has its response at once. The
    refusals of a client that does not obey take slots in the future, and are held until shortly before their slot.

    A held request needs no thread. It has its connection and what the server read of its body already; the number
    of held requests is bounded, and beyond it refusals are sent at once.

    It must be used from the event loop only.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._slots: dict[str, float] = {}
        self._prune_at = 0.0
        self._held = 0

    def refuse(self, client: str, seconds_per_place: float) -> tuple[float, float]:
        """Take a slot for a refusal.

        Args:
            client: Identity of the client.
            seconds_per_place: Mean time after which another place becomes free.

        Returns:
            For how many seconds to hold the refusal, and after how many seconds more the client may send again.
        """
        now = self._clock()
        if now >= self._prune_at:
            self._slots = {name: slot for name, slot in self._slots.items() if slot > now - _RETURN_S}
            self._prune_at = now + _PRUNE_S
        free = min(max(now, self._slots.get(client, now)), now + _GRACE_S + _MAX_HOLD_S)
        slot = self._slots[client] = free + seconds_per_place * (len(self._slots) + (client not in self._slots))
        hold_s = max(0.0, free - now - _GRACE_S) if self._held < _MAX_HELD else 0.0
        return hold_s, slot - now - hold_s

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Count a held refusal until the block ends."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
