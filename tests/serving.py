"""Real service processes for tests and benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 60.0


@dataclass
class ServiceProcess:
    """A running `plumbline serve`.

    Attributes:
        process: The process.
        url: Base URL of the service.
        log: Parsed log entries so far.
    """

    process: subprocess.Popen[str]
    url: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)
    _listening: threading.Event = field(default_factory=threading.Event)

    def wait_until(self, status_code: int, *, timeout_s: float = START_TIMEOUT_S) -> httpx.Response:
        """Wait until /health/ready returns this status and no bundle is being loaded."""
        deadline = time.monotonic() + timeout_s
        while True:
            response = httpx.get(f"{self.url}/health/ready", timeout=timeout_s)
            if response.json()["status"] != "loading" and response.status_code == status_code:
                return response
            if time.monotonic() > deadline:
                raise TimeoutError(f"/health/ready still returns {response.status_code} {response.text}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def terminate(self, *, timeout_s: float = 30.0) -> int:
        """Stop the process with SIGTERM and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def rss_bytes(self) -> int:
        """Return the resident memory in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _follow(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": line.rstrip()}
            self.log.append(entry)
            if entry["event"] == "listening":
                self.url = f"http://127.0.0.1:{entry['port']}"
                self._listening.set()
        self._listening.set()


@contextmanager
def service_process(
    models: Path,
    data: Path,
    settings: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    *,
    program: Path = ROOT,
    start_timeout_s: float = START_TIMEOUT_S,
    **process_options: Any,
) -> Iterator[ServiceProcess]:
    """Run `plumbline serve` on a free port, until the end of the block at the latest.

    Args:
        models: The model repository.
        data: The data folder.
        settings: Further settings by name, without the prefix `PLUMBLINE_`, in lower case.
        variables: Further environment variables.
        program: Folder that contains the packages `service` and `client/plumbline_client` of the version to run.
        start_timeout_s: Longest time until it listens, in seconds.
        process_options: Options of `subprocess.Popen`.
    """
    given = {"models": str(models), "data": str(data), "port": "0", "shutdown_delay_s": "0"} | dict(settings or {})
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}
    if program != ROOT:
        inherited["PYTHONPATH"] = os.pathsep.join([str(program), str(program / "client")])
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli.main", "serve"],
        env=inherited | {f"PLUMBLINE_{name}".upper(): value for name, value in given.items()} | dict(variables or {}),
        cwd=program,
        stderr=subprocess.PIPE,
        text=True,
        **process_options,
    )
    service = ServiceProcess(process)
    assert process.stderr is not None
    follower = threading.Thread(target=service._follow, args=(process.stderr,), daemon=True)
    follower.start()
    try:
        if not service._listening.wait(start_timeout_s) or not service.url:
            raise RuntimeError(f"The service did not start: {service.log}")
        yield service
    finally:
        process.kill()
        process.wait()
        follower.join()
        process.stderr.close()
