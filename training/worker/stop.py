"""Why a worker stops its work on a job: a signal, a cancellation, or the loss of the job."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Literal

Reason = Literal["interrupted", "cancelled", "lost"]


class JobStopped(KeyboardInterrupt):
    """The work on a job ends before its bundles are made.

    It is an interruption for the training pipeline, which writes its checkpoint.
    """


class StopRequest:
    """A request to stop, made by a signal or by the service; it may be made from any thread.

    A signal concerns the whole worker, a cancellation or a loss the present job only.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._reason: Reason | None = None
        self._wake = threading.Event()

    @property
    def signal(self) -> int | None:
        """Number of the signal that asked the worker to stop; None if there was none."""
        return self._signal

    @property
    def reason(self) -> Reason | None:
        """Why the work on the present job is to stop; None if it is not."""
        # A job that the worker no longer holds cannot be released, whatever else happened.
        return self._reason if self._reason is not None else "interrupted" if self._signal is not None else None

    def request(self, reason: Literal["cancelled", "lost"]) -> None:
        """Ask for the end of the present job."""
        self._reason = reason
        self._wake.set()

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
        if self.reason is not None:
            raise JobStopped

    def wait(self, seconds: float) -> None:
        """Wait, at most until a request to stop."""
        self._wake.wait(seconds)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handle SIGINT or SIGTERM. The second signal ends the process at once, as without a handler."""
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number
        self._wake.set()
