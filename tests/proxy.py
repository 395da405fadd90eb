"""HAProxy for tests and benchmarks, with the configuration in `deploy/haproxy`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent
CONFIGURATION = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
REMEDY = "HAProxy is not installed: `make system-deps`, or install Debian's package haproxy."
_START_TIMEOUT_S = 60.0
_ATTEMPTS = 3


@dataclass(frozen=True)
class Proxy:
    """A running HAProxy.

    Attributes:
        url: Its URL for clients.
        stats_url: The URL of its metrics.
        log: File with its log.
        pid: Id of the process; 0 before it runs.
    """

    url: str
    stats_url: str
    log: Path
    pid: int = 0

    def replicas(self, product: str) -> list[str]:
        """Return the name of the replica of each request about a product so far, `<NOSRV>` for none."""
        lines = [line for line in self.log.read_text().splitlines() if f"/v1/products/{product}/inspections" in line]
        return [line.split(" replicas/")[1].split()[0] for line in lines]

    def wait_for_replicas(self, count: int) -> None:
        """Wait until a number of replicas is ready."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (found := self._ready()) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found} replicas are ready, not {count}: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def _ready(self) -> int:
        text = httpx.get(f"{self.stats_url}/metrics", params={"scope": "server"}).text
        states = [line for line in text.splitlines() if line.startswith("haproxy_server_status{")]
        return sum('state="UP"' in line and line.endswith(" 1") for line in states)


def find_haproxy() -> str:
    """Return the program; skip the test if it is not installed."""
    # Debian installs it where only root has it in the search path.
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(REMEDY)
    return found


@contextmanager
def proxy_process(replicas: Sequence[str], variables: Mapping[str, str] | None = None) -> Iterator[Proxy]:
    """Run HAProxy until the end of the block.

    Args:
        replicas: HOST:PORT of the replicas.
        variables: Further environment variables of the configuration.
    """
    program = find_haproxy()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}
    given = {f"PLUMBLINE_REPLICA_{number}": address for number, address in enumerate(replicas, 1)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haproxy-")))
        for attempt in range(_ATTEMPTS):
            ports = _free_ports(2)
            addresses = [f"127.0.0.1:{port}" for port in ports]
            chosen = {"PLUMBLINE_PROXY_BIND": addresses[0], "PLUMBLINE_PROXY_STATS": addresses[1]}
            environment = inherited | given | chosen | dict(variables or {})
            scheme = "https" if "PLUMBLINE_PROXY_CERTIFICATE" in environment else "http"
            proxy = Proxy(f"{scheme}://{addresses[0]}", f"http://{addresses[1]}", folder / f"log-{attempt}")
            with proxy.log.open("wb") as file:
                process = subprocess.Popen([program, "-f", CONFIGURATION], env=environment, stdout=file, stderr=file)
            stack.callback(_end, process)
            if _responds(proxy, process):
                yield replace(proxy, pid=process.pid)
                return
            if attempt == _ATTEMPTS - 1:
                raise RuntimeError(f"HAProxy did not start: {proxy.log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _responds(proxy: Proxy, process: subprocess.Popen[bytes]) -> bool:
    """Wait until HAProxy responds. Return False if it ended: another program took a port in the meantime."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None:
        try:
            httpx.get(f"{proxy.stats_url}/live")
            return True
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"HAProxy does not respond: {proxy.log.read_text()}") from None
            time.sleep(0.02)
    return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in opened:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in opened]
