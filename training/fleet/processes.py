"""Jobs in processes of this machine: one process per job, whose memory is watched."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING, Any

from training.fleet.engine import Function, Watch
from training.fleet.machine import resident_memory
from training.interruption import Interruption

if TYPE_CHECKING:
    from training.fleet.job import Job, Outcome

POLL_S = 0.5
NOTE_S = 0.5  # between two messages about the progress of a job
MIB = 2**20


class LocalProcesses:
    """An engine that starts one process per job.

    A job that ends its process, or whose process needs too much memory, fails; the others continue. The processes are
    forked from one that has imported torch, so that a job does not begin with seconds of imports.

    Args:
        processes: Number of processes at the same time.
        bound: Largest resident memory of a process, bytes. It is ended when it needs more.
        function: Does a job, see `training.fleet.job.run_job`.
        preload: Modules that are imported once for all processes.
    """

    def __init__(self, processes: int, bound: int, function: Function, preload: Sequence[str] = ()) -> None:
        self._processes, self._bound, self._function = processes, bound, function
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def run(self, jobs: Sequence[Job], watch: Watch, stop: Interruption) -> Iterator[tuple[Job, Outcome]]:
        """See `training.fleet.engine.Engine`."""
        waiting = deque(jobs)
        running: list[_Running] = []
        try:
            while running or (waiting and stop.signal is None):
                while waiting and len(running) < self._processes and stop.signal is None:
                    running.append(self._start(waiting.popleft()))
                ready = wait([each.messages for each in running], POLL_S)
                for each in list(running):
                    if stop.signal is not None:
                        each.stop()
                    each.check_memory(self._bound)
                    if each.messages in ready and not each.receive(watch):
                        running.remove(each)
                        watch(each.job.product, "")
                        yield each.job, each.outcome()
        finally:
            for each in running:  # the caller ended the iteration
                each.process.kill()

    def _start(self, job: Job) -> _Running:
        messages, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_serve, args=(self._function, job, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process ends the messages
        return _Running(job, process, messages, time.monotonic())


@dataclass
class _Running:
    """A job in progress."""

    job: Job
    process: ForkServerProcess
    messages: Connection
    started: float
    ended: Outcome | None = None
    excess: str | None = None
    stopped: bool = False

    def stop(self) -> None:
        """Ask the process to write its checkpoint and to end."""
        if not self.stopped:
            self.stopped = True
            self.process.terminate()

    def check_memory(self, bound: int) -> None:
        """End the process if it needs more memory than the bound."""
        assert self.process.pid is not None
        used = resident_memory(self.process.pid)
        if used is not None and used > bound and self.excess is None:
            self.excess = (
                f"Its process needed {used // MIB} MiB of memory, more than the limit of {bound // MIB} MiB, and was "
                "ended. Give a larger --memory, which may need fewer --processes, or smaller settings for this product."
            )
            self.process.kill()

    def receive(self, watch: Watch) -> bool:
        """Receive a message and return whether others may follow."""
        try:
            message = self.messages.recv()
        except (EOFError, OSError):
            return False
        if isinstance(message, str):
            watch(self.job.product, message)
        else:
            (self.ended,) = message
        return True

    def outcome(self) -> Outcome:
        """Return the outcome of a process whose messages have ended."""
        from training.fleet.results import Result

        self.messages.close()
        self.process.join()
        if self.ended is not None:
            return self.ended
        code = self.process.exitcode or 0
        how = f"by the signal {_name(-code)}" if code < 0 else f"with the code {code}"
        killed = " Signal SIGKILL often means that the machine had no memory left." if code == -signal.SIGKILL else ""
        error = self.excess or f"Its process ended {how} before the training was done.{killed}"
        if self.stopped and self.excess is None:
            return "interrupted"
        return Result(ended_at=time.time(), error=error, seconds=round(time.monotonic() - self.started, 1))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _serve(function: Function, job: Job, messages: Connection) -> None:
    """Do a job in a process of its own and send what is done and how it ended."""
    logging.getLogger().addHandler(
        logging.NullHandler()
    )  # failures are results; lines would break the progress display
    interruption = Interruption(is_at_once=True)
    # Ctrl-C reaches every process of a terminal; the one that started this one handles it, and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interruption.on_signal)
    outcome: Any
    try:
        outcome = function(job, _Messages(messages), interruption.should_stop)
    except KeyboardInterrupt:  # before or after the training, or the process that started this one is gone
        outcome = "interrupted"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        messages.send((outcome,))


class _Messages:
    """A `training.pipeline.Reporter` that sends texts to the process that started the job."""

    def __init__(self, messages: Connection) -> None:
        self._messages = messages
        self._next = 0.0

    def note(self, text: str) -> None:
        """Leave a line of text out: the report of the product contains what it says."""

    def stage(self, title: str, total: int) -> Callable[[int, str], None]:
        """Begin a stage."""
        self._send(title)

        def advance(done: int, _note: str) -> None:
            if time.monotonic() >= self._next:
                self._send(f"{title} {done}/{total}")

        return advance

    def _send(self, text: str) -> None:
        self._next = time.monotonic() + NOTE_S
        # An interruption within a message would leave a part of it in the pipe.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self._messages.send(text)
        except OSError as error:  # the process that started the job is gone: the checkpoint is kept
            raise KeyboardInterrupt from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
