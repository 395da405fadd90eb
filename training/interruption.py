"""Requests to end a work: at once in long steps, between training steps where a checkpoint is exact."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.fit import Progress


class Interruption:
    """A request to end the work of this process, made by a signal.

    Where the work may be ended at once, the handler of the signal ends it, except during training steps. Elsewhere the
    work reads `is_requested`, or calls `should_stop` or `check`.

    Args:
        is_at_once: Whether the work may be ended at once from the beginning, not only within `at_once`.
        second_ends: Whether the second signal ends the process at once, as without a handler.
    """

    def __init__(self, *, is_at_once: bool = False, second_ends: bool = False) -> None:
        self._is_at_once = is_at_once
        self._second_ends = second_ends
        self._is_training = False
        self._signal: int | None = None
        self._wake = threading.Event()

    @property
    def signal(self) -> int | None:
        """Number of the signal that asked for the end; None if there was none."""
        return self._signal

    @property
    def is_requested(self) -> bool:
        """Whether the end was requested."""
        return self._signal is not None

    def should_stop(self, progress: Progress) -> bool:
        """Return whether the end was requested; to be called after every training step.

        Until the last step nothing ends the work at once: the checkpoint could not be written within a step.
        """
        self._is_training = progress.step < progress.steps
        return self.is_requested

    def check(self) -> None:
        """End the work if that was requested.

        Raises:
            KeyboardInterrupt: It was.
        """
        if self.is_requested:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a request end the work at once in this block, also within long steps that do not call `check`.

        It is used on the main thread, which runs the handlers of signals.
        """
        self._is_training = False
        try:
            self._is_at_once = True
            self.check()  # after the flag, so that no request is lost between the two
            yield
        finally:
            self._is_at_once = False

    def wait(self, seconds: float) -> None:
        """Wait, at most until a request."""
        self._wake.wait(seconds)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: The work can end here.
        """
        if self._second_ends and self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number
        self._wake.set()
        self._end_at_once()

    def _end_at_once(self) -> None:
        """End the work if that was requested and is possible here; called by handlers of signals."""
        if self._is_at_once and not self._is_training:
            self.check()
