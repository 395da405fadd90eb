"""`plumbline watch` against a running service."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import pytest
from sqlalchemy import text
from typer.testing import Result

from plumbline_client import Client
from service.cli.watch import LOCK_NAME
from service.cli.watching import files, requests, targets, watcher
from service.cli.watching.requests import StopFlag
from service.cli.watching.targets import TargetFolders
from service.cli.watching.watcher import FolderWatcher, WatchOptions
from tests.bundles import part
from tests.command_line import run
from tests.running_service import BAD, BOMB, GOOD, RunningService
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
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_images_are_moved_by_decision_with_a_record_beside_them(service: RunningService, tmp_path: Path) -> None:
    for name, content in {"a.png": GOOD, "b.PNG": BAD, "c.png": BOMB, "d.png": b"no image", "notes.txt": b""}.items():
        (tmp_path / name).write_bytes(content)
    stored = count(service)
    done = watch(service, tmp_path)
    moved = {"pass/a.png", "fail/b.PNG", "refused/c.png", "refused/d.png"}
    assert tree(tmp_path) == {"notes.txt", *moved, *(f"{name}.json" for name in moved)}
    assert done.exit_code == 1  # images were refused
    assert "1 fail, 1 pass, 2 refused" in done.stderr
    assert count(service) == stored + 2
    inspection = record(tmp_path / "fail/b.PNG.json")["inspection"]
    assert inspection == service.client.get(f"/v1/inspections/{inspection['id']}").json()
    assert record(tmp_path / "refused/d.png.json")["problem"]["type"] == "/problems#not-an-image"
    assert watch(service, tmp_path).exit_code == 0
    assert count(service) == stored + 2


def test_lines_of_json_and_part_ids_from_names(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "L7").mkdir()
    (tmp_path / "L7" / "cam2_4711.png").write_bytes(GOOD)
    (tmp_path / "other.png").write_bytes(BAD)
    pattern = r"(?P<lot>[^/]+)/(?P<station>cam\d)_(?P<part_id>\d+)"
    done = watch(service, tmp_path, "--recursive", "--part-id", pattern, "--station", "s", "--json")
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    by_event = {line["event"]: line for line in lines}
    inspection = by_event["pass"]["inspection"]
    assert (inspection["part_id"], inspection["lot"], inspection["station"]) == ("4711", "L7", "cam2")
    assert by_event["unnamed"]["file"] == "other.png"
    assert by_event["fail"]["inspection"]["station"] == "s"
    assert by_event["summary"]["counts"] == {"fail": 1, "pass": 1, "unnamed": 1}
    assert (tmp_path / "pass/L7/cam2_4711.png").exists()
    assert record(tmp_path / "pass/L7/cam2_4711.png.json")["part_id"] == "4711"


@pytest.mark.parametrize("crash_in", ["store", "move"])
def test_crash_between_verdict_and_move_gives_one_inspection(
    service: RunningService, tmp_path: Path, crash_in: str
) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    stored = count(service)
    with patch.object(TargetFolders, crash_in, side_effect=SystemExit):
        watch(service, tmp_path)
    assert (count(service), (tmp_path / "a.png").exists()) == (stored + 1, True)
    # Other options make another request of it, whose key is used.
    done = watch(service, tmp_path, "--lot", "L7")
    assert done.exit_code == 0
    assert tree(tmp_path) == {"pass/a.png", "pass/a.png.json"}
    assert count(service) == stored + 1


def test_record_is_enough_after_the_service_forgot_the_key(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(2))
    with patch.object(TargetFolders, "move", side_effect=SystemExit):
        watch(service, tmp_path)
    with service.store.engine.begin() as connection:
        connection.execute(text("DELETE FROM idempotency_keys"))
    stored = count(service)
    assert watch(service, tmp_path).exit_code == 0
    assert count(service) == stored
    assert tree(tmp_path) == {"pass/a.png", "pass/a.png.json"}


def test_names_in_use_are_never_overwritten(service: RunningService, tmp_path: Path) -> None:
    numbers = range(3, 9)
    with patch.object(targets, "_NUMBERS", 3):
        for number in numbers:  # more than the numbers that are tried
            (tmp_path / "a.png").write_bytes(image(number))
            assert watch(service, tmp_path).exit_code == 0
    images = sorted(path for path in (tmp_path / "pass").iterdir() if path.suffix == ".png")
    assert {"a.png", "a-1.png", "a-2.png"} < {path.name for path in images}
    assert {path.read_bytes() for path in images} == {image(number) for number in numbers}
    hashes = {record(path.with_name(f"{path.name}.json"))["sha256"] for path in images}
    assert len(hashes) == len(images)


def test_same_file_again_has_the_same_inspection(service: RunningService, tmp_path: Path) -> None:
    ids = []
    for name in ("a.png", "a-1.png"):
        (tmp_path / "a.png").write_bytes(image(30))
        os.utime(tmp_path / "a.png", ns=(10**18, 10**18))
        watch(service, tmp_path)
        ids.append(record(tmp_path / "pass" / f"{name}.json")["inspection"]["id"])
    assert ids[0] == ids[1]


def test_hidden_temporary_empty_and_linked_files_stay(service: RunningService, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "in"
    outside.mkdir()
    (folder / "sub").mkdir(parents=True)
    (outside / "secret.png").write_bytes(GOOD)
    for name in (".a.png", "a.png.part", "a.png.tmp", "a.png.crdownload", "a.part", "sub/.b.png"):
        (folder / name).write_bytes(GOOD)
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "linked").symlink_to(outside)
    (folder / "sub" / "loop").symlink_to(folder)
    before = tree(folder)
    done = watch(service, folder, "--recursive")
    assert tree(folder) == before
    assert (done.exit_code, "1 incomplete" in done.stderr) == (1, True)  # the empty file
    assert (outside / "secret.png").exists()


def test_targets_are_not_scanned_and_sub_folders_only_on_request(service: RunningService, tmp_path: Path) -> None:
    for name in ("pass", "fail", "sub", "sub/pass"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(image(31))
    assert watch(service, tmp_path).exit_code == 0
    assert tree(tmp_path) == {"pass/x.png", "fail/x.png", "sub/x.png", "sub/pass/x.png"}
    assert watch(service, tmp_path, "--recursive").exit_code == 0
    assert {"pass/sub/x.png", "pass/sub/pass/x.png", "pass/x.png", "fail/x.png"} <= tree(tmp_path)


def test_links_among_the_targets_are_refused(service: RunningService, tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "pass").symlink_to(outside)
    done = watch(service, folder)
    assert (done.exit_code, "it is a link" in done.stderr) == (1, True)
    (folder / "pass").unlink()
    (folder / "pass").mkdir()
    (folder / "pass" / "sub").symlink_to(outside)
    (folder / "sub").mkdir()
    (folder / "sub" / "a.png").write_bytes(GOOD)
    done = watch(service, folder, "--recursive")
    assert (done.exit_code, "through a link" in done.stdout) == (1, True)
    assert list(outside.iterdir()) == []
    assert (folder / "sub" / "a.png").exists()


def test_unusual_names(service: RunningService, tmp_path: Path) -> None:
    names = [
        b"\xff\xfe-4712.png",
        "Ü ß–4713.png".encode(),
        b"line\nbreak-4714.png",
        b"-4715.png",
        b"x" * 246 + b"-4716.png",
    ]
    for number, name in enumerate(names):
        (tmp_path / os.fsdecode(name)).write_bytes(image(40 + number))
    done = watch(service, tmp_path, "--part-id", r"(?P<part_id>.{1,8}\d{4})\.png$", "--json")
    assert done.exit_code == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    ids = {item["inspection"]["part_id"] for item in found if item["event"] == "pass"}
    assert {r"\xfe-4712", "reak-4714"} <= {part_id[-9:] for part_id in ids}
    moved = {path.name for path in (tmp_path / "pass").iterdir() if path.suffix == ".png"}
    assert len(moved) == 5
    assert {os.fsdecode(name) for name in names[:4]} <= moved


def test_images_are_inspected_by_age(service: RunningService, tmp_path: Path) -> None:
    order = [3, 1, 2, 0]
    for number in order:
        (tmp_path / f"{number}.png").write_bytes(image(50 + number))
        os.utime(tmp_path / f"{number}.png", (1000 + order.index(number),) * 2)
    with patch.object(files, "WINDOW", 2):
        done = watch(service, tmp_path, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines if line["event"] == "pass"] == [f"{number}.png" for number in order]


def test_file_that_grows_or_is_open_for_writing_is_waited_for(service: RunningService, tmp_path: Path) -> None:
    url = str(service.client.base_url)
    content = image(60)
    with watching(tmp_path, url, settle_s=0.3) as (_, events):
        with (tmp_path / "a.png").open("wb", buffering=0) as stream:
            for offset in range(0, len(content), 40):
                stream.write(content[offset : offset + 40])
                time.sleep(0.05)
            closes_at = time.monotonic()
            if has_leases(tmp_path):
                time.sleep(0.8)
                closes_at = time.monotonic()
                assert events == []
        wait_for(lambda: events)
        assert time.monotonic() - closes_at < 10
    assert [name for name, _ in events] == ["pass"]
    assert (tmp_path / "pass" / "a.png").read_bytes() == content


def has_leases(folder: Path) -> bool:
    """Return whether the file system grants leases."""
    probe = folder / "probe"
    with probe.open("wb"), probe.open("rb") as reader:
        return files.is_open_for_writing(reader.fileno())


def test_image_that_is_replaced_meanwhile_is_inspected_anew(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(61))
    store = TargetFolders.store

    def replace(self: TargetFolders, *arguments: Any) -> Path:
        place = store(self, *arguments)
        if arguments[0] == "pass":
            (tmp_path / "a.png").write_bytes(BAD)
        return place

    with watching(tmp_path, str(service.client.base_url)) as (_, events), patch.object(TargetFolders, "store", replace):
        wait_for(lambda: len(events) == 2)
    assert [name for name, _ in events] == ["changed", "fail"]
    assert tree(tmp_path) == {"fail/a.png", "fail/a.png.json"}
    assert (tmp_path / "fail/a.png").read_bytes() == BAD


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


@pytest.fixture
def passed(service: RunningService) -> tuple[int, dict[str, Any]]:
    """The response to an image that passes."""
    return 201, service.inspect(GOOD).json()


@pytest.fixture
def quick() -> Iterator[None]:
    with patch.object(requests, "_FIRST_PAUSE_S", 0.05), patch.object(requests, "_LONGEST_PAUSE_S", 0.2):
        yield


@pytest.mark.usefixtures("quick")
def test_unreachable_service_is_reported_once_and_waited_for(
    passed: tuple[int, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(GOOD)
    script = Scripted(passed)
    with script.running() as url:
        pass
    with watching(tmp_path, url) as (_, events):
        wait_for(lambda: events)
        time.sleep(0.5)
        assert [name for name, _ in events] == ["waiting"]
        with script.running(int(url.rpartition(":")[2])):
            wait_for(lambda: len(events) == 3)
    assert [name for name, _ in events] == ["waiting", "resumed", "pass"]


@pytest.mark.usefixtures("quick")
def test_busy_service_is_waited_for_as_long_as_it_demands(passed: tuple[int, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD)
    script = Scripted(problem(503, "queue-full", retry_after=0.4), problem(503, "queue-full", retry_after=0.4), passed)
    started = time.monotonic()
    with script.running() as url, watching(tmp_path, url) as (_, events):
        wait_for(lambda: events)
    assert time.monotonic() - started >= 0.8
    assert [name for name, _ in events] == ["pass"]  # a queue that empties soon is not reported
    assert len(script.keys) == 3
    assert len(set(script.keys)) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 421])
def test_refused_watcher_ends_and_images_stay(tmp_path: Path, status: int) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(GOOD)
    script = Scripted(problem(status, "some-problem"))
    with script.running() as url:
        done = run("watch", tmp_path, "--product", "widget", "--settle", "0", "--url", url)  # without --once
    assert (done.exit_code, "It is some-problem." in done.stderr) == (1, True)
    assert tree(tmp_path) == {"a.png", "b.png"}
    assert len(script.keys) == 1


@pytest.mark.usefixtures("quick")
def test_image_at_which_the_service_fails_does_not_hold_up_the_others(
    passed: tuple[int, dict[str, Any]], tmp_path: Path
) -> None:
    for number, name in enumerate(("a.png", "b.png")):
        (tmp_path / name).write_bytes(image(number))
        os.utime(tmp_path / name, (number + 1, number + 1))
    failure = problem(500, "internal-error")
    script = Scripted(failure, failure, failure, passed)
    with script.running() as url, patch.object(watcher, "HOLD_BACK_S", 0.5), watching(tmp_path, url) as (_, events):
        wait_for(lambda: [name for name, _ in events].count("pass") == 2)
    done = [(name, values.get("file")) for name, values in events if name in {"pass", "left"}]
    assert done == [("left", "a.png"), ("pass", "b.png"), ("pass", "a.png")]


@pytest.mark.usefixtures("quick")
def test_single_pass_gives_up_when_the_service_stays_unreachable(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD)
    with Scripted((200, {})).running() as url:
        pass
    with patch.object(requests.Patience, "wait", give_up):
        done = run("watch", tmp_path, "--product", "widget", "--once", "--settle", "0", "--url", url)
    assert (done.exit_code, "does not respond" in done.stderr) == (1, True)
    assert tree(tmp_path) == {"a.png"}


def give_up(self: requests.Patience, kind: str, reason: str, pause_s: float | None = None) -> None:
    raise requests.GaveUp(f"it does not respond: {reason}")


def wait_forever(patience: requests.Patience) -> None:
    for _ in range(100):
        patience.wait("unreachable", "reason")


@pytest.mark.usefixtures("quick")
def test_patience_ends_after_its_time() -> None:
    reports: list[str | None] = []
    patience = requests.Patience(StopFlag(), reports.append, 0.3)
    with pytest.raises(requests.GaveUp):
        wait_forever(patience)
    assert reports == ["reason"]


def test_too_large_file_is_refused_without_being_sent(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD + bytes(1000))
    stored = count(service)
    done = watch(service, tmp_path, "--max-file-bytes", "1000")
    assert (done.exit_code, "more than 1000" in done.stdout) == (1, True)
    assert record(tmp_path / "refused/a.png.json")["problem"]["limit_bytes"] == 1000
    assert count(service) == stored


@pytest.mark.usefixtures("quick")
def test_full_disk_is_reported_once_and_the_image_stays_until_there_is_space(
    service: RunningService, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(image(70))
    stored = count(service)
    attempts: list[Path] = []

    def fill(path: Path, content: bytes) -> None:
        attempts.append(path)
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with watching(tmp_path, str(service.client.base_url)) as (_, events):
        with patch.object(targets, "_write", fill):
            wait_for(lambda: len(attempts) > 3)
        wait_for(lambda: len(events) == 3)
    assert "No space left on device" in events[0][1]["reason"]
    assert [name for name, _ in events] == ["waiting", "resumed", "pass"]
    assert tree(tmp_path) == {"pass/a.png", "pass/a.png.json"}
    assert count(service) == stored + 1


@pytest.mark.usefixtures("quick")
def test_file_that_cannot_be_moved_is_left_reported_once_and_inspected_once(
    service: RunningService, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(image(71))
    (tmp_path / "b.png").write_bytes(image(72))
    stored = count(service)
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES))
    move = TargetFolders.move
    attempts: list[Path] = []

    def fail(self: TargetFolders, file: files.DroppedFile, place: Path) -> None:
        if file.name == "a.png" and len(attempts) < 3:
            attempts.append(place)
            raise denied
        move(self, file, place)

    with (
        patch.object(TargetFolders, "move", fail),
        patch.object(watcher, "HOLD_BACK_S", 0.2),
        watching(tmp_path, str(service.client.base_url)) as (_, events),
    ):
        wait_for(lambda: [name for name, _ in events].count("pass") == 2)
    assert [(name, values["file"]) for name, values in events] == [
        ("left", "a.png"), ("pass", "b.png"), ("pass", "a.png"),
    ]  # fmt: skip
    assert count(service) == stored + 2
    assert set(attempts) == {tmp_path / "pass/a.png"}


def test_unreadable_file_and_folder_are_left(service: RunningService, tmp_path: Path) -> None:
    """Root may read everything, so the refusal is not that of the file system."""
    (tmp_path / "a.png").write_bytes(GOOD)
    (tmp_path / "b.png").write_bytes(image(75))
    (tmp_path / "sub").mkdir()
    read, scandir = files.read_file, os.scandir

    def read_others(file: files.DroppedFile, limit: int) -> bytes:
        if file.name == "a.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(file.path))
        return read(file, limit)

    def scan_others(path: Path) -> Any:
        if Path(path) == tmp_path / "sub":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    with patch.object(watcher, "read_file", read_others), patch.object(os, "scandir", scan_others):
        done = watch(service, tmp_path, "--recursive")
    assert (done.exit_code, done.stdout.count("Permission denied")) == (1, 2)
    assert tree(tmp_path) == {"a.png", "pass/b.png", "pass/b.png.json"}


def test_result_is_kept_while_its_record_cannot_be_written(service: RunningService, tmp_path: Path) -> None:
    """However long that lasts: the service may have forgotten the key meanwhile."""
    (tmp_path / "a.png").write_bytes(image(76))
    stored = count(service)
    attempts: list[Path] = []
    write = targets._write

    def refuse_once(path: Path, content: bytes) -> None:
        attempts.append(path)
        if len(attempts) == 1:
            with service.store.engine.begin() as connection:
                connection.execute(text("DELETE FROM idempotency_keys"))
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        write(path, content)

    with (
        patch.object(targets, "_write", refuse_once),
        patch.object(watcher, "HOLD_BACK_S", 0.2),
        watching(tmp_path, str(service.client.base_url)) as (_, events),
    ):
        wait_for(lambda: len(events) == 2)
    assert [name for name, _ in events] == ["left", "pass"]
    assert count(service) == stored + 1


def test_image_that_is_replaced_in_the_moment_of_the_move_stays(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(image(77))
    rename = Path.rename
    moves: list[Path] = []

    def replace_before(self: Path, target: Path) -> Path:
        if self == path and not moves:
            moves.append(target)
            path.write_bytes(BAD)
        return rename(self, target)

    with patch.object(Path, "rename", replace_before), watching(tmp_path, str(service.client.base_url)) as (_, events):
        wait_for(lambda: len(events) == 2)
    assert [name for name, _ in events] == ["changed", "fail"]
    assert tree(tmp_path) == {"fail/a.png", "fail/a.png.json"}


def test_second_watcher_of_a_folder_is_refused(service: RunningService, tmp_path: Path) -> None:
    seen: list[Result] = []
    (tmp_path / "a.png").write_bytes(image(73))
    create = TargetFolders.create

    def watch_too(self: TargetFolders) -> None:
        if not seen:
            seen.append(watch(service, tmp_path))
        create(self)

    with patch.object(TargetFolders, "create", watch_too):
        assert watch(service, tmp_path).exit_code == 0
    assert (seen[0].exit_code, "in use by another Plumbline process" in seen[0].stderr) == (1, True)
    assert f"pid {os.getpid()}" in seen[0].stderr


def test_wrong_usage(tmp_path: Path) -> None:
    for options, message in {
        (tmp_path / "none",): "does not exist",
        (tmp_path, "--part-id", "("): "is not a regular expression",
        (tmp_path, "--part-id", ".*"): "must have at least one of the groups",
        (tmp_path, "--part-id", "(?P<serial>.*)"): "It has: serial",
    }.items():
        done = run("watch", *options, "--product", "widget")
        assert (done.exit_code, message in " ".join(done.stderr.split())) == (2, True)
    done = run("watch", tmp_path, "--product", "widget", "--url", "localhost:8000")
    assert (done.exit_code, "must begin with http:// or https://" in done.stderr) == (1, True)


def test_key_is_sent_as_credential(passed: tuple[int, dict[str, Any]], tmp_path: Path) -> None:
    given: list[dict[str, Any]] = []

    class Recorded(Client):
        def __init__(self, url: str, **options: Any) -> None:
            given.append(options)
            super().__init__(url, **options)

    (tmp_path / "a.png").write_bytes(GOOD)
    with Scripted(passed).running() as url, patch("plumbline_client.Client", Recorded):
        done = run("watch", tmp_path, "--product", "widget", "--once", "--settle", "0", "--url", url, "--api-key", "k")
    assert done.exit_code == 0
    assert given == [{"api_key": "k", "verify": True, "retries": 0}]


def test_vanished_folder_is_waited_for(service: RunningService, tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    with patch.object(requests, "_FIRST_PAUSE_S", 0.05), watching(folder, str(service.client.base_url)) as (_, events):
        folder.rename(tmp_path / "unmounted")
        wait_for(lambda: events)
        (tmp_path / "unmounted").rename(folder)
        wait_for(lambda: len(events) == 2)
        (folder / "a.png").write_bytes(image(74))
        wait_for(lambda: len(events) == 3)
    assert [name for name, _ in events] == ["waiting", "resumed", "pass"]


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


@pytest.mark.slow
def test_killed_at_any_moment_every_image_is_inspected_and_moved_once(service: RunningService, tmp_path: Path) -> None:
    stored, total = count(service), 40
    for number in range(total):
        (tmp_path / f"{number}.png").write_bytes(image(100 + number))
    chance = random.Random(7)

    def moved() -> int:
        return len(list((tmp_path / "pass").glob("*.png")))

    for _ in range(3):
        killed = command(tmp_path, str(service.client.base_url))
        enough = moved() + 5
        wait_for(lambda enough=enough: moved() >= enough)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.02))
        killed.kill()
        killed.communicate()
    process = command(tmp_path, str(service.client.base_url))
    wait_for(lambda: moved() == total)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["event"] == "summary"
    names = {f"{number}.png" for number in range(total)}
    assert tree(tmp_path) == {f"pass/{name}" for name in names} | {f"pass/{name}.json" for name in names}
    assert count(service) == stored + total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_ends_the_wait_for_the_service(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(GOOD)
    with Scripted((200, {})).running() as url:
        pass
    process = command(tmp_path, url)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "waiting"
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert json.loads(output)["event"] == "summary"
    assert tree(tmp_path) == {"a.png"}


@pytest.mark.slow
def test_signal_during_an_inspection_ends_the_command_after_it(
    passed: tuple[int, dict[str, Any]], tmp_path: Path
) -> None:
    for number, name in enumerate(("a.png", "b.png")):
        (tmp_path / name).write_bytes(image(number))
        os.utime(tmp_path / name, (number + 1, number + 1))
    script = Scripted(passed, delay_s=0.5)
    with script.running() as url:
        process = command(tmp_path, url)
        wait_for(lambda: script.keys)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert tree(tmp_path) == {"pass/a.png", "pass/a.png.json", "b.png"}


@pytest.mark.skipif(sys.platform != "linux", reason="leases exist on Linux only")
def test_file_that_is_open_for_writing_is_incomplete_whatever_its_age(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(GOOD)
    if not has_leases(tmp_path):
        pytest.skip("the file system of the temporary folder grants no leases; use a local one")
    status = path.stat()
    file = files.DroppedFile(path, "a.png", status.st_size, status.st_mtime_ns)
    with path.open("r+b"), pytest.raises(files.Incomplete):
        files.read_file(file, 10**6)
    assert files.read_file(file, 10**6) == GOOD
    with path.open("r+b"):  # reading left no lease behind, which would block this
        pass


def test_file_that_changes_while_it_is_read_is_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(GOOD)
    status = path.stat()
    file = files.DroppedFile(path, "a.png", status.st_size, status.st_mtime_ns)

    def append(_: int) -> bool:
        path.write_bytes(GOOD + b"more")
        return False

    with patch.object(files, "is_open_for_writing", append), pytest.raises(files.Incomplete):
        files.read_file(file, 10**6)


def test_memory_is_bounded_by_the_window(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    inbox = files.Inbox(tmp_path, frozenset(), recursive=False, settle_s=0, skipped=lambda *_: None)
    with patch.object(files, "WINDOW", 10), patch.object(files, "MAX_HELD_BACK", 20):
        for _ in range(10):
            ready = inbox.scan().ready
            assert len(ready) <= 10
            for file in ready:
                inbox.hold_back(file, 1000)
        assert len(inbox._held_back) == 20
        assert len(inbox._since) <= 10
