"""Who works with an inspector: what lets a bundle leave only after its last inspection."""

from __future__ import annotations

import threading

from service.inspection.inspector import Inspector


class Usage:
    """Counts the inspections that an inspector has in work, and closes it when it was retired and has none.

    Args:
        inspector: Closed by this object only.

    Attributes:
        ended: Set when the inspector is closed.
    """

    def __init__(self, inspector: Inspector) -> None:
        self.ended = threading.Event()
        self._inspector = inspector
        self._lock = threading.Lock()
        self._count = 0
        self._retired = False

    def enter(self) -> bool:
        """Begin to work with it; False where it takes nothing new any more."""
        with self._lock:
            if self._retired:
                return False
            self._count += 1
            return True

    def leave(self) -> None:
        """End what `enter` began."""
        with self._lock:
            self._count -= 1
            is_last = self._retired and self._count == 0
        if is_last:
            self._end()

    def retire(self) -> None:
        """Take nothing new; who works with it finishes first."""
        with self._lock:
            is_first = not self._retired
            self._retired = True
            is_unused = self._count == 0
        if is_first and is_unused:
            self._end()

    def _end(self) -> None:
        self._inspector.close(drain=True)
        self.ended.set()
