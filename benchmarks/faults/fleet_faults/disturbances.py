"""The faults that a fleet gets under load, in a fixed order, and what it counted between them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import typer

from benchmarks.faults.fleet_faults.fleet import Fleet, cpu_seconds
from tests.postgres import PostgresServer
from tests.s3 import S3Server

_KILLED_S = 2.0


@dataclass
class Disturbances:
    """Causes the faults, spread over a duration.

    Args:
        fleet: The replicas.
        server: The database server.
        s3: The S3 server.
        seconds: The duration.
        pause_s: Seconds for which a replica is paused, and the S3 server stopped.

    Attributes:
        counted: What the fleet counted in each phase, by its name: the undisturbed time, each fault, and the time after
            it until the next one. A fault ends when everything runs again; a replica that was started is ready then.
        lasted_s: Seconds of each phase.
        database_cpu_s: Processor seconds of the database server that was stopped.
        measured_s: Seconds that `run` took: a fault that takes longer than its period extends the time.
        exit_codes: Exit codes of replicas that SIGTERM ended, other than 0.
    """

    fleet: Fleet
    server: PostgresServer
    s3: S3Server
    seconds: float
    pause_s: float
    counted: dict[str, dict[str, float]] = field(default_factory=dict)
    lasted_s: dict[str, float] = field(default_factory=dict)
    database_cpu_s: float = 0.0
    measured_s: float = 0.0
    exit_codes: list[int] = field(default_factory=list)
    _last: dict[str, float] = field(default_factory=dict)
    _since: float = 0.0

    def run(self) -> None:
        """Cause all faults, and return at the end of the duration."""
        faults: list[tuple[float, str, Callable[[], None]]] = [
            (0.0, "undisturbed", lambda: None),
            (0.1, "a replica is killed and started again", self._kill),
            (0.3, "a replica is paused", self._pause),
            (0.5, "PostgreSQL is restarted", self._restart_database),
            (0.65, "the S3 server is stopped", self._stop_s3),
            (0.8, "a replica is replaced", self._replace),
        ]
        started = time.monotonic()
        self._last, self._since = self.fleet.total(), started
        for index, (_, what, cause) in enumerate(faults):
            typer.echo(f"{time.monotonic() - started:.0f} s: {what}", err=True)
            cause()
            if index:
                self._end_phase(what)
            end = faults[index + 1][0] if index + 1 < len(faults) else 1.0
            time.sleep(max(0.0, started + end * self.seconds - time.monotonic()))
            self._end_phase(f"after: {what}" if index else what)
        self.measured_s = time.monotonic() - started
        typer.echo(f"{self.measured_s:.0f} s: end", err=True)

    def _end_phase(self, name: str) -> None:
        counted, now = self.fleet.total(), time.monotonic()
        self.counted[name] = {what: value - self._last.get(what, 0.0) for what, value in counted.items()}
        self.lasted_s[name] = round(now - self._since, 1)
        self._last, self._since = counted, now

    def _kill(self) -> None:
        self.fleet.kill(0)
        time.sleep(_KILLED_S)
        self.fleet.start(0)

    def _pause(self) -> None:
        process = self.fleet.replicas[1].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.pause_s)
        process.send_signal(signal.SIGCONT)

    def _restart_database(self) -> None:
        self.database_cpu_s = cpu_seconds(self.server.pid)
        self.server.stop(signal.SIGINT)
        self.server.start()

    def _stop_s3(self) -> None:
        self.s3.refuse()
        time.sleep(self.pause_s)
        self.s3.accept()

    def _replace(self) -> None:
        last = len(self.fleet.replicas) - 1
        if code := self.fleet.terminate(last):
            self.exit_codes.append(code)
        self.fleet.start(last)
