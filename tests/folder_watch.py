"""Running `plumbline watch` in tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
from sqlalchemy import text
from typer.testing import Result

from plumbline_client import Client
from service.cli.watch import LOCK_NAME
from service.cli.watching import files
from service.cli.watching.requests import StopFlag
from service.cli.watching.targets import TargetFolders
from service.cli.watching.watcher import FolderWatcher, WatchOptions
from tests.bundles import part
from tests.command_line import run
from tests.running_service import RunningService
from tests.serving import ROOT


def image(number: int) -> bytes:
    """Encode a good image that differs from the others."""
    drawn = part()
    drawn[0, number % 64] += 1 + number // 64
    return cv2.imencode(".png", drawn)[1].tobytes()


def watch(service: RunningService, folder: Path, *options: str | Path) -> Result:
    """Run a single pass."""
    at = ("--url", f"http://127.0.0.1:{service.port}")
    return run("watch", folder, "--product", "widget", "--once", "--settle", "0", *at, *options)


def count(service: RunningService) -> int:
    with service.store.engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM inspections")).scalar_one())


def tree(folder: Path) -> set[str]:
    """Return the relative paths of all files but the lock file."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return found - {LOCK_NAME}


def record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@contextmanager
def watching(
    folder: Path, url: str, stop: StopFlag | None = None, **options: Any
) -> Iterator[tuple[StopFlag, list[tuple[str, dict[str, Any]]]]]:
    """Watch a folder in a thread until the end of the block."""
    events: list[tuple[str, dict[str, Any]]] = []
    flag = stop or StopFlag()
    TargetFolders(folder).create()
    chosen = WatchOptions(product="widget", **({"settle_s": 0.05, "interval_s": 0.05} | options))
    failures: list[BaseException] = []

    def target() -> None:
        try:
            with Client(url, retries=0) as client:
                FolderWatcher(folder, client, chosen, lambda *event: events.append(event), flag).run()
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the test
            failures.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    try:
        yield flag, events
    finally:
        flag.is_set = True
        thread.join(20)
        assert not thread.is_alive()
    assert failures == []


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 90  # processes start slowly on a busy machine
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Scripted:
    """A service that sends prepared responses, then the last one again and again."""

    def __init__(self, *responses: tuple[int, dict[str, Any]], delay_s: float = 0) -> None:
        self.keys: list[str | None] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                status, body = responses[min(len(script.keys), len(responses) - 1)]
                script.keys.append(self.headers["idempotency-key"])
                time.sleep(delay_s)
                self.send_response(status)
                content = json.dumps(body).encode()
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._handler = Handler

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        with ThreadingHTTPServer(("127.0.0.1", port), self._handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


def problem(status: int, slug: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return status, {"type": f"/problems#{slug}", "status": status, "detail": f"It is {slug}.", **more}


def has_leases(folder: Path) -> bool:
    """Return whether the file system grants leases."""
    probe = folder / "probe"
    with probe.open("wb"), probe.open("rb") as reader:
        return files.is_open_for_writing(reader.fileno())


def command(folder: Path, url: str) -> subprocess.Popen[str]:
    options = ("--product", "widget", "--settle", "0.05", "--interval", "0.05", "--json", "--url", url)
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli.main", "watch", str(folder), *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "client")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
