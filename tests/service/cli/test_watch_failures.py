"""`plumbline watch` when something does not work."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import text
from typer.testing import Result

from plumbline_client import Client
from service.cli.watching import files, requests, targets, watcher
from service.cli.watching.requests import StopFlag
from service.cli.watching.targets import TargetFolders
from tests.command_line import run
from tests.folder_watch import (
    Scripted,
    count,
    image,
    problem,
    tree,
    wait_for,
    watch,
    watching,
)
from tests.running_service import GOOD, RunningService


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


@pytest.mark.slow
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
    assert "stay in the folder" in done.stderr
    assert "No images" not in done.stderr
    assert tree(tmp_path) == {"a.png", "b.png"}
    assert len(script.keys) == 1


@pytest.mark.slow
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


@pytest.mark.slow
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
