"""The clock of the service. A jump of the clock is noticed, logged once and counted."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

log = structlog.get_logger(__name__)

JUMP_S = 5.0
"""Smallest difference to the steady clock that counts as a jump. Time synchronisation corrects less than this."""


def steady_s() -> float:
    """Return the seconds since an arbitrary moment, including the time that the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class Clock:
    """The time of day, compared with a clock that cannot be set.

    Args:
        on_jump: Called with "forwards" or "backwards" after a jump.
        wall_s: Returns the time of day in seconds since 1970.
        steady: Returns the seconds of a clock that is never set.
    """

    def __init__(
        self,
        on_jump: Callable[[str], None] = lambda _direction: None,
        wall_s: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady_s,
    ) -> None:
        self._on_jump = on_jump
        self._wall_s = wall_s
        self._steady = steady
        self._lock = threading.Lock()
        self._offset_s = wall_s() - steady()
        self._jumped_at: float | None = None

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        wall_s, steady = self._wall_s(), self._steady()
        with self._lock:
            # Small differences are followed: those of many days must not add up to a jump.
            jump_s, self._offset_s = wall_s - steady - self._offset_s, wall_s - steady
            is_jump = abs(jump_s) > JUMP_S
            if is_jump:
                self._jumped_at = steady
        if is_jump:
            direction = "forwards" if jump_s > 0 else "backwards"
            log.warning("clock jumped", direction=direction, seconds=round(jump_s, 1))
            self._on_jump(direction)
        return datetime.fromtimestamp(wall_s, UTC)

    def seconds_since_jump(self) -> float | None:
        """Return the seconds since the newest jump; None if there was none since the start."""
        self.now()
        jumped_at = self._jumped_at
        return None if jumped_at is None else self._steady() - jumped_at
