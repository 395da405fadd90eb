"""An S3 server for tests: moto, in a process of its own.

Run as a program, it serves until SIGTERM. SIGUSR1 closes the port and SIGUSR2 opens it again; the objects stay.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

_START_TIMEOUT_S = 60.0
_KEY = "not-a-secret"
_ROOT = Path(__file__).parent.parent


@dataclass
class S3Server:
    """A running server.

    Attributes:
        port: The TCP port on the loopback.
    """

    port: int
    _process: subprocess.Popen[bytes]
    _count: int = 0
    _is_open: bool = True

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def bucket(self) -> str:
        """Create a bucket and return its name."""
        self._count += 1
        name = f"bucket-{self._count}"
        httpx.put(f"{self.url}/{name}").raise_for_status()
        return name

    def keys(self, bucket: str) -> list[str]:
        """Return the keys of all objects in a bucket."""
        listing = httpx.get(f"{self.url}/{bucket}", params={"list-type": "2"}).text
        return [piece.partition("</Key>")[0] for piece in listing.split("<Key>")[1:]]

    def refuse(self) -> None:
        """Close the port. Connections are refused until `accept`."""
        self._is_open = False
        self._process.send_signal(signal.SIGUSR1)
        self._wait(is_open=False)

    def accept(self) -> None:
        """Open the port again."""
        self._is_open = True
        self._process.send_signal(signal.SIGUSR2)
        self._wait(is_open=True)

    def freeze(self) -> None:
        """Stop the process without ending it: connections are made, and nothing responds."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue after `freeze`."""
        self._process.send_signal(signal.SIGCONT)

    def _wait(self, *, is_open: bool) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                httpx.get(self.url)
                found = True
            except httpx.TransportError:
                found = False
            if found == is_open:
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the S3 server does not start or stop")
            time.sleep(0.02)


@contextmanager
def s3_process() -> Iterator[S3Server]:
    """Run a server until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.s3"], cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        server = S3Server(int(process.stdout.readline()), process)
        server._wait(is_open=True)
        yield server
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server that all tests share. To stop it, use `stoppable_s3`."""
    with s3_process() as server:
        yield server


@pytest.fixture
def stoppable_s3(s3: S3Server) -> Iterator[S3Server]:
    """The shared server for a test that may stop it. It responds again after the test."""
    yield s3
    s3.thaw()
    if not s3._is_open:
        s3.accept()


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment. The server accepts any."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, _KEY)


def _serve() -> None:
    from moto.server import ThreadedMotoServer

    signals = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, server._port = server.get_host_and_port()
    sys.stdout.write(f"{server._port}\n")
    sys.stdout.flush()
    while True:
        if signal.sigwait(signals) is signal.SIGUSR1:
            server.stop()
            assert server._server is not None
            server._server.server_close()
        else:
            server.start()


if __name__ == "__main__":
    _serve()
