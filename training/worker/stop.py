"""Why a worker stops its work on a job: a signal, a cancellation, or the loss of the job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

Reason = Literal["interrupted", "cancelled", "lost"]
_WAKE: signal.Signals | None = getattr(signal, "SIGUSR1", None)  # Windows has none; there a long step is completed


class JobStopped(KeyboardInterrupt):
    """The work on a job ends before its bundles are made.

    It is an interruption for the training pipeline, which writes its checkpoint.
    """


class StopRequest:
    """A request to stop, made by a signal or by the service; it may be made from any thread.

    A signal concerns the whole worker, a cancellation or a loss the present job only.
    """

    def __init__(self) -> None:
        self._is_at_once = False
        self._is_deferred = False
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
        if self.reason is not None:
            raise JobStopped

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a request stop the work at once in this block, also within long steps that do not ask `check`.

        It is used on the main thread, which runs the handlers of signals.
        """
        self.check()
        self._is_deferred = False
        self._is_at_once = True
        try:
            yield
        finally:
            self._is_at_once = False

    def defer(self, is_deferred: bool) -> None:
        """Begin or end a part of the work that asks `check` or `reason` itself, often, and is not to be cut off."""
        self._is_deferred = is_deferred

    def wait(self, seconds: float) -> None:
        """Wait, at most until a request to stop."""
        self._wake.wait(seconds)

    def handle_signals(self) -> None:
        """Install the handlers of SIGINT, SIGTERM and the signal that wakes the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.on_signal)
        if _WAKE is not None:
            signal.signal(_WAKE, self.on_wake)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handle SIGINT or SIGTERM. The second signal ends the process at once, as without a handler."""
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number
        self._wake.set()
        self.on_wake(number, _frame)

    def on_wake(self, _number: int, _frame: FrameType | None) -> None:
        """Handle the signal that `request` sends to the main thread.

        Raises:
            JobStopped: The work can stop here.
        """
        if self._is_at_once and not self._is_deferred:
            self._is_at_once = False  # the work is stopped once
            self.check()
