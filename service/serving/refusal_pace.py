"""Pace of refusals, so that clients that send again at once do not use the processor for refusals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

_GRACE_S = 1.0
_MAX_HOLD_S = 5.0
_MAX_RETRY_S = 10.0
_MAX_HELD = 256
_PRUNE_S = 0.5
_RETURN_S = 1.0  # the header `Retry-After` has whole seconds, so clients return up to a second after their slot
_REFUSALS_PER_PLACE = 1.5


class _Slots(NamedTuple):
    """What the refusals of one client took, in seconds of the clock.

    Attributes:
        sent: When the next refusal may be sent.
        retry: When the client may send again after the last refusal.
    """

    sent: float
    retry: float


class RefusalPace:
    """Delays the refusals of clients that are refused more often than other requests are completed.

    `Retry-After` spreads the refused requests of each client, so that they return as often as places become free. So a
    client that obeys it is refused at most that often, and at once. If all clients together are refused
    `_REFUSALS_PER_PLACE` times as often, they ignore it; then each refusal is held until the client's next one may be
    sent. Each refused client has an equal part of this rate.

    A held request needs no thread. It keeps its connection and what the server read of its body before; the number
    of held requests is bounded, and beyond it refusals are sent at once.

    It must be used from the event loop only.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._slots: dict[str, _Slots] = {}
        self._prune_at = 0.0
        self._held = 0

    def refuse(self, client: str, seconds_per_place: float) -> tuple[float, float]:
        """Take the client's next slots for a refusal.

        Args:
            client: Identity of the client.
            seconds_per_place: Mean time after which another place becomes free.

        Returns:
            For how many seconds to hold the refusal, and after how many more seconds the client may send again.
        """
        now = self._clock()
        if now >= self._prune_at:
            self._slots = {name: slots for name, slots in self._slots.items() if max(slots) > now - _RETURN_S}
            self._prune_at = now + _PRUNE_S
        before = self._slots.get(client, _Slots(now, now))
        sent = min(max(now, before.sent), now + _GRACE_S + _MAX_HOLD_S)
        hold_s = max(0.0, sent - now - _GRACE_S) if self._held < _MAX_HELD else 0.0
        step = seconds_per_place * (len(self._slots) + (client not in self._slots))
        retry = min(max(now + hold_s, before.retry) + step, now + hold_s + _MAX_RETRY_S)
        self._slots[client] = _Slots(sent + step / _REFUSALS_PER_PLACE, retry)
        return hold_s, retry - now - hold_s

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Count a held refusal until the block ends."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
