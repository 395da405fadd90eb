"""Interruption of a training by a signal: after the current step, where a checkpoint is exact, elsewhere at once."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.fit import Progress


class Interruption:
    """A request to end a training."""

    def __init__(self) -> None:
        self._training = self._requested = False

    def should_stop(self, progress: Progress) -> bool:
        """Return whether the end was requested; to be called after every training step."""
        self._training = progress.step < progress.steps
        return self._requested

    def on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: No training steps are in progress.
        """
        if not self._training:
            raise KeyboardInterrupt
        self._requested = True
