"""Why a worker stops its work on a job: a signal, a cancellation, or the loss of the job."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Literal

from training.interruption import Interruption

Reason = Literal["interrupted", "cancelled", "lost"]
_WAKE: signal.Signals | None = getattr(signal, "SIGUSR1", None)  # Windows has none; there a long step is completed


class JobStopped(KeyboardInterrupt):
    """The work on a job ends before its bundles are made.

    It is an interruption for the training pipeline, which writes its checkpoint.
    """


class StopRequest(Interruption):
    """A request to stop, made by a signal or by the service; it may be made from any thread.

    A signal concerns the whole worker, a cancellation or a loss the present job only.
    """

    def __init__(self) -> None:
        super().__init__(second_ends=True)
        self._reason: Reason | None = None

    @property
    def reason(self) -> Reason | None:
        """Why the work on the present job is to stop; None if it is not."""
        # A job that the worker no longer holds cannot be released, whatever else happened.
        return self._reason if self._reason is not None else "interrupted" if self._signal is not None else None

    @property
    def is_requested(self) -> bool:
        """Whether the work on the present job is to stop."""
        return self.reason is not None

    def request(self, reason: Literal["cancelled", "lost"]) -> None:
        """Ask for the end of the present job."""
        self._reason = reason
        self._wake.set()
        # Wakes the main thread from a long step. Without this handler, the signal would end the process.
        if self._is_at_once and _WAKE is not None and signal.getsignal(_WAKE) == self.on_wake:
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)

    def begin_job(self) -> None:
        """Forget what concerned the job before."""
        self._reason = None
        if self._signal is None:
            self._wake.clear()

    def check(self) -> None:
        """Stop the work if that was requested.

        Raises:
            JobStopped: It was.
        """
        if self.is_requested:
            self._is_at_once = False  # another request does not interrupt what is done on the way out
            raise JobStopped

    def handle_signals(self) -> None:
        """Install the handlers of SIGINT, SIGTERM and the signal that wakes the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.on_signal)
        if _WAKE is not None:
            signal.signal(_WAKE, self.on_wake)

    def on_wake(self, _number: int, _frame: FrameType | None) -> None:
        """Handle the signal that `request` sends to the main thread.

        Raises:
            JobStopped: The work can stop here.
        """
        self._end_at_once()
