"""Starting and stopping `plumbline serve`: what prevents the start is reported, and the process always ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.store.lock import LOCK_NAME, FileLock
from tests.serving import ROOT, service_process

pytestmark = pytest.mark.slow

CORRUPT = b"this is not a database " * 200


def start(models: Path, data: Path, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `plumbline serve` where it cannot start."""
    given = {"models": str(models), "data": str(data), "port": "0", "provider": "cpu", **settings}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}
    return subprocess.run(
        [sys.executable, "-m", "service.cli.main", "serve"],
        env=inherited | {f"PLUMBLINE_{name}".upper(): value for name, value in given.items()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_explained(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "cannot start" in line]
    for text in expected:
        assert text in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_store_in_use_is_reported_without_a_traceback(tiny_models: Path, tmp_path: Path, log_format: str) -> None:
    lock = FileLock(tmp_path / LOCK_NAME, "the data folder")
    try:
        done = start(tiny_models, tmp_path, {"log_format": log_format})
    finally:
        lock.release()
    assert_explained(done, "is in use by another Plumbline process", f"pid {os.getpid()}", "Stop that process")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_corrupt_database_is_reported_with_the_right_advice(tiny_models: Path, tmp_path: Path, log_format: str) -> None:
    (tmp_path / "plumbline.db").write_bytes(CORRUPT)
    done = start(tiny_models, tmp_path, {"log_format": log_format})
    assert_explained(done, "is not a SQLite database", "restore a backup")
    assert "image again" not in done.stderr


def test_misspelt_variable_is_logged_and_the_service_starts(tiny_models: Path, tmp_path: Path) -> None:
    with service_process(tiny_models, tmp_path, {"provider": "cpu", "qeue_limit": "8"}) as service:
        (warning,) = [entry for entry in service.log if entry["event"] == "environment variable not used"]
    assert warning["level"] == "warning"
    assert warning["reason"] == "PLUMBLINE_QEUE_LIMIT is not a setting (did you mean PLUMBLINE_QUEUE_LIMIT?)"


HANGING = """
import sys, time
import service.server
from service.app import Runtime
from service.monitoring.logs import configure_logging
from service.settings import Settings

service.server.EXIT_GRACE_S = 0.5
if sys.argv[1] == "thread":
    Runtime.close = lambda self: time.sleep(600)
else:
    service.server.open_streams = lambda app: time.sleep(600)
settings = Settings(
    models=sys.argv[2], data=sys.argv[3], port=0, provider="cpu", shutdown_delay_s=0, shutdown_timeout_s=1
)
configure_logging(settings)
service.server.run(settings)
"""


@pytest.mark.parametrize("hanging", ["thread", "event loop"])
def test_process_ends_although_something_hangs(tiny_models: Path, tmp_path: Path, hanging: str) -> None:
    arguments = [sys.executable, "-c", HANGING, hanging, str(tiny_models), str(tmp_path)]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            events, sent = [], 0.0
            for line in process.stderr:
                events.append(json.loads(line)["event"])
                if events[-1] == "listening":
                    process.send_signal(signal.SIGTERM)
                    sent = time.monotonic()
            assert process.wait(60) == 1
            assert time.monotonic() - sent < 30
        finally:
            process.kill()
    assert events[-1] == "the service did not stop in time and is ended"
    assert "stopped" not in events
