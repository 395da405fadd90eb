"""A real Prometheus server for tests."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.monitoring import PROMETHEUS

INTERVAL_S = 0.5
"""Seconds between two scrapes, and between two evaluations of the rules."""


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus server."""

    client: httpx.Client

    def get(self, path: str, **params: Any) -> Any:
        """Return the data of a response of the HTTP API.

        Raises:
            AssertionError: The request failed, for example because the expression is not valid.
        """
        response = self.client.get(f"/api/v1/{path}", params=params)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def samples(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of what an expression returns now."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def values(self, series: str, label: str) -> list[str]:
        """Return the values of a label of some series."""
        values: list[str] = self.get(f"label/{label}/values", **{"match[]": series})
        return values


def config_for(folder: Path, target: str, key: Path) -> Path:
    """Copy the configuration of the repository into a folder, with another target, key and interval."""
    shutil.copytree(PROMETHEUS, folder, dirs_exist_ok=True)
    path = folder / "prometheus.yml"
    text = path.read_text(encoding="utf-8")
    for old, new in (
        ("plumbline:8000", target),
        ("/run/plumbline/prometheus.key", str(key)),
        ("scrape_interval: 5s", f"scrape_interval: {INTERVAL_S * 1000:g}ms"),
        ("evaluation_interval: 5s", f"evaluation_interval: {INTERVAL_S * 1000:g}ms"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def run_prometheus(config: Path, data: Path) -> Iterator[Prometheus]:
    """Run Prometheus until the end of the block."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: run `make system-deps` (Debian package prometheus)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = data.with_name("prometheus.log")
    options = [f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address={address}"]
    with log.open("w") as output:
        process = subprocess.Popen([program, *options], stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=10) as client:
            _wait_until_ready(client, process, log)
            yield Prometheus(client)
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            if client.get("/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.05)
