"""`plumbline watch` against a running service."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import text

from service.cli.watching.targets import TargetFolders
from tests.folder_watch import (
    Scripted,
    command,
    count,
    image,
    record,
    tree,
    wait_for,
    watch,
)
from tests.running_service import BAD, BOMB, GOOD, RunningService


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


def test_same_file_again_has_the_same_inspection(service: RunningService, tmp_path: Path) -> None:
    ids = []
    for name in ("a.png", "a-1.png"):
        (tmp_path / "a.png").write_bytes(image(30))
        os.utime(tmp_path / "a.png", ns=(10**18, 10**18))
        watch(service, tmp_path)
        ids.append(record(tmp_path / "pass" / f"{name}.json")["inspection"]["id"])
    assert ids[0] == ids[1]


def test_too_large_file_is_refused_without_being_sent(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD + bytes(1000))
    stored = count(service)
    done = watch(service, tmp_path, "--max-file-bytes", "1000")
    assert (done.exit_code, "more than 1000" in done.stdout) == (1, True)
    assert record(tmp_path / "refused/a.png.json")["problem"]["limit_bytes"] == 1000
    assert count(service) == stored


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
    with ThreadPoolExecutor(1) as pool:  # the output is larger than a pipe holds
        written = pool.submit(process.communicate)
        try:
            wait_for(lambda: moved() == total)
        finally:
            process.send_signal(signal.SIGTERM)
        output, errors = written.result(timeout=30)
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
