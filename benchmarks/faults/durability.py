"""Durability campaign: kill, stop, fill the disk, delete the data folder, start a second process.

    python -m benchmarks.faults.durability
    python -m benchmarks.faults.durability --kills 5 --terms 2

Prints one line per row: verdicts that were answered, those that are stored, those that were lost, and connections that
broke without a response. Exits with code 1 if a verdict was lost or the service did not behave as the row expects. A
killed process breaks its connections; a stopped one must not.

The rows with a full disk need Linux and `unshare`: they mount a small file system in a mount namespace of their own.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import httpx
import typer

from service.errors import PlumblineError
from service.store.artefacts.local import LocalFiles
from service.store.database import open_read_only_engine
from service.store.inspections import get_inspection
from tests.bundles import write_tiny_bundle
from tests.running_service import GOOD, INSPECT
from tests.serving import ServiceProcess, service_process

CLIENTS = 4
IMAGE = {"content-type": "image/png"}
SETTINGS = {"provider": "cpu"}
SMALL_DISK_BYTES = 24 * 2**20
RECOVERY_S = 15.0
_NAMESPACE = "DURABILITY_NAMESPACE"


@dataclass
class Row:
    """What happened in one row of the campaign.

    Attributes:
        name: The fault.
        answered: Ids of the inspections with status 201.
        lost: Ids of those that are not stored with image and map.
        broken: Connections that ended without a response.
        failures: Expectations that were not met.
        detail: Further figures.
    """

    name: str
    answered: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    broken: int = 0
    failures: list[str] = field(default_factory=list)
    detail: str = ""

    @property
    def is_passed(self) -> bool:
        """Whether nothing was lost and everything was as expected."""
        return not self.lost and not self.failures

    def expect(self, condition: bool, what: str) -> None:
        """Record an expectation that is not met."""
        if not condition:
            self.failures.append(what)

    def __str__(self) -> str:
        stored = len(self.answered) - len(self.lost)
        text = f"{self.name:28} answered {len(self.answered):6}  stored {stored:6}  lost {len(self.lost):4}"
        text += f"  broken {self.broken:4}  {'ok' if self.is_passed else 'FAILED'}"
        return "  ".join([text, *filter(None, [self.detail]), *self.failures])


class Load:
    """Clients that send images over kept-alive connections until they are stopped or cannot connect.

    Args:
        url: Base URL of the service.
        row: Receives the results.
    """

    def __init__(self, url: str, row: Row) -> None:
        self._url = url
        self._row = row
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Wait until this many more inspections were answered, and up to 50 ms longer."""
        expected, deadline = len(self._row.answered) + count, time.monotonic() + 60
        while len(self._row.answered) < expected and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.05))

    def stop(self) -> None:
        """End the clients after their current request."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Wait until every client failed to connect."""
        for thread in self._threads:
            thread.join(60)

    def _send(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, verify=False) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(INSPECT, content=GOOD, headers=IMAGE)
                except httpx.ConnectError:
                    return  # nothing listens any more: no request was sent
                except httpx.TransportError:
                    with self._lock:
                        self._row.broken += 1
                    return
                if response.status_code == 201:
                    with self._lock:
                        self._row.answered.append(response.json()["id"])


def find_lost(data: Path, answered: Iterable[str]) -> list[str]:
    """Return the inspections that are not stored with their image and map. Only reads."""
    lost = []
    engine = open_read_only_engine(f"sqlite:///{data / 'plumbline.db'}")
    files = LocalFiles(data / "inspections")
    for inspection_id in answered:
        try:
            record = get_inspection(engine, UUID(inspection_id))
            files.image_of(record)
            files.map_of(record)
        except PlumblineError:
            lost.append(inspection_id)
    engine.dispose()
    return lost


def ready(service: ServiceProcess, status_code: int) -> str:
    """Wait until readiness has this status, and return the reasons. An empty text means that it never had it."""
    deadline = time.monotonic() + RECOVERY_S
    while time.monotonic() < deadline:
        response = httpx.get(f"{service.url}/health/ready", timeout=5)
        if response.status_code == status_code and response.json()["status"] != "loading":
            return " ".join(response.json()["reasons"]) or "ready"
        time.sleep(0.05)
    return ""


def post(service: ServiceProcess, row: Row) -> int:
    """Send one image and return the status."""
    response = httpx.post(service.url + INSPECT, content=GOOD, headers=IMAGE, timeout=30)
    if response.status_code == 201:
        row.answered.append(response.json()["id"])
    return response.status_code


def kill_row(models: Path, data: Path, count: int) -> Row:
    """Kill the service at random moments under load."""
    row = Row(f"kill -9 x {count}")
    for _ in range(count):
        with service_process(models, data, SETTINGS) as service:
            service.wait_until(200)
            load = Load(service.url, row)
            time.sleep(random.uniform(0.05, 0.5))
            service.kill()
            load.wait()
    row.lost = find_lost(data, row.answered)
    return row


def term_row(models: Path, data: Path, count: int) -> Row:
    """Stop the service under load on kept-alive connections."""
    row = Row(f"SIGTERM x {count}")
    exit_codes = set()
    for _ in range(count):
        with service_process(models, data, SETTINGS | {"shutdown_delay_s": "0.3"}) as service:
            service.wait_until(200)
            load = Load(service.url, row)
            time.sleep(random.uniform(0.05, 0.3))
            exit_codes.add(service.terminate())
            load.wait()
    row.expect(exit_codes <= {0}, f"exit codes {sorted(exit_codes)}")
    row.expect(not row.broken, "connections broke without a response")
    row.lost = find_lost(data, row.answered)
    return row


def loss_row(models: Path, data: Path, name: str, lose: Callable[[Path], Any]) -> Row:
    """Delete or replace files under load. What is answered afterwards counts as lost."""
    row = Row(name)
    with service_process(models, data, SETTINGS) as service:
        service.wait_until(200)
        load = Load(service.url, row)
        load.wait_for(20)
        # Inspections that are answered while the files disappear are not counted: they may have been stored before.
        lose(data)
        load.stop()
        before, row.answered = len(row.answered), []
        load = Load(service.url, row)
        time.sleep(0.5)
        load.stop()
        row.lost = list(row.answered)
        reasons = ready(service, 503)
        row.expect("since the service was started" in reasons, f"readiness: {reasons!r}")
    row.detail = f"answered before: {before}"
    return row


def second_process_row(models: Path, data: Path) -> Row:
    """Start a second process on the data folder of a running one."""
    row = Row("two processes")
    with service_process(models, data, SETTINGS) as service:
        service.wait_until(200)
        row.expect(post(service, row) == 201, "first process")
        try:
            with service_process(models, data, SETTINGS):
                row.failures.append("the second process started")
        except RuntimeError as error:
            expected = f"pid {service.process.pid}"
            row.expect("in use by another" in str(error) and expected in str(error), "the message names the process")
        row.expect(post(service, row) == 201, "the first process continues")
    row.lost = find_lost(data, row.answered)
    return row


def full_disk_row(models: Path, data: Path) -> Row:
    """Fill the disk while the service runs, and free space again."""
    row = Row("disk full while running")
    with small_disk(data), service_process(models, data, SETTINGS) as service:
        service.wait_until(200)
        row.expect(post(service, row) == 201, "before")
        fill(data)
        row.expect(post(service, row) == 503, "POST with a full disk")
        reasons = ready(service, 503)
        row.expect("full" in reasons or "No space" in reasons, f"readiness: {reasons!r}")
        row.expect(get(service, row.answered[0]) == 200, "GET with a full disk")
        (data / "filler").unlink()
        row.expect(bool(ready(service, 200)), "ready again without a restart")
        row.expect(post(service, row) == 201, "after")
        row.lost = find_lost(data, row.answered)
    return row


def start_on_full_disk_row(models: Path, data: Path, *, is_killed: bool) -> Row:
    """Start with a full disk, and free space while the service runs."""
    row = Row(f"start, disk full, {'killed' if is_killed else 'stopped'}")
    with small_disk(data):
        with service_process(models, data, SETTINGS) as service:
            service.wait_until(200)
            row.expect(post(service, row) == 201, "before")
            if is_killed:
                service.kill()
            else:
                service.terminate()
        fill(data)
        with service_process(models, data, SETTINGS) as service:
            reasons = ready(service, 503)
            row.expect("cannot be written" in reasons or "full" in reasons, f"readiness: {reasons!r}")
            row.expect(get(service, row.answered[0]) == 200, "GET with a full disk")
            row.expect(post(service, row) == 503, "POST with a full disk")
            (data / "filler").unlink()
            row.expect(bool(ready(service, 200)), "ready again without a restart")
            row.expect(post(service, row) == 201, "after")
            row.lost = find_lost(data, row.answered)
    return row


def get(service: ServiceProcess, inspection_id: str) -> int:
    """Read an inspection and its image, and return the worse status."""
    paths = (f"/v1/inspections/{inspection_id}", f"/v1/inspections/{inspection_id}/image")
    return max(httpx.get(service.url + path, timeout=30).status_code for path in paths)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system on a folder for the block."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Fill the file system of a folder to the last byte."""
    descriptor = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        for size in (2**16, 1):
            try:
                while True:
                    os.write(descriptor, bytes(size))
            except OSError:
                continue
    finally:
        os.close(descriptor)


def enter_namespace() -> bool:
    """Continue in a mount namespace of this process, and return whether file systems can be mounted."""
    if _NAMESPACE in os.environ:
        return True
    command = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    os.environ[_NAMESPACE] = "1"
    script = ["-m", "benchmarks.faults.durability", *sys.argv[1:]]
    os.execvp(command[0], [*command, sys.executable, *script])
    raise AssertionError("execvp returned")


def delete_folder(data: Path) -> None:
    """Delete the data folder while files are written to it."""
    for _ in range(20):
        shutil.rmtree(data, ignore_errors=True)
        if not data.exists():
            return


def replace_database(data: Path) -> None:
    """Put a copy of the database in its place."""
    shutil.copy(data / "plumbline.db", data / "copy.db")
    (data / "copy.db").rename(data / "plumbline.db")


def main(
    kills: Annotated[int, typer.Option(min=0, max=1000, help="Number of kills.")] = 50,
    terms: Annotated[int, typer.Option(min=0, max=1000, help="Number of stops.")] = 20,
) -> None:
    """Run the campaign."""
    can_mount = enter_namespace()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        write_tiny_bundle(models)
        rows: list[Callable[[], Row]] = [
            lambda: kill_row(models, folder / "kill", kills),
            lambda: term_row(models, folder / "term", terms),
            lambda: loss_row(models, folder / "folder", "data folder deleted", delete_folder),
            lambda: loss_row(
                models, folder / "file", "database deleted", lambda data: (data / "plumbline.db").unlink()
            ),
            lambda: loss_row(
                models, folder / "log", "write-ahead log deleted", lambda data: (data / "plumbline.db-wal").unlink()
            ),
            lambda: loss_row(models, folder / "other", "database replaced", replace_database),
            lambda: second_process_row(models, folder / "two"),
        ]
        if can_mount:
            rows += [
                lambda: full_disk_row(models, folder / "full"),
                lambda: start_on_full_disk_row(models, folder / "stopped", is_killed=False),
                lambda: start_on_full_disk_row(models, folder / "killed", is_killed=True),
            ]
        else:
            typer.echo("disk full: skipped, this machine does not allow a mount namespace")
        is_passed = True
        for run in rows:
            try:
                row = run()
            except (RuntimeError, TimeoutError, httpx.HTTPError) as error:  # the service did not start or respond
                row = Row("service failed", failures=[f"{type(error).__name__}: {str(error)[-300:]}"])
            typer.echo(str(row))
            is_passed = is_passed and row.is_passed
    if not is_passed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
