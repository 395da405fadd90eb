"""Which files `plumbline watch` inspects, when they are complete, and where they are moved."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from service.cli.watching import files, targets
from service.cli.watching.targets import TargetFolders
from tests.folder_watch import (
    has_leases,
    image,
    record,
    tree,
    wait_for,
    watch,
    watching,
)
from tests.running_service import BAD, GOOD, RunningService


@pytest.mark.slow
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


@pytest.mark.slow
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
