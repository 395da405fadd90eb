"""What is particular to images and maps in a bucket of a real S3 server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from botocore.exceptions import ClientError

from service.store.artefacts.files import image_name
from service.store.artefacts.options import ArtefactOptions
from service.store.artefacts.remote import RemoteFiles
from service.store.errors import ArtefactGone, StoreUnavailable
from service.store.ids import new_id
from service.store.options import StoreOptions
from service.store.probe import StoreProbe
from service.store.records import Artefacts
from service.store.store import Store
from tests.s3 import S3Server
from tests.service.store.artefacts import options_for, record
from tests.service.store.test_store import make_row

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("aws_credentials")]
QUICK: dict[str, Any] = {"connect_timeout_s": 0.3, "read_timeout_s": 0.3, "attempts": 2}
FOREIGN = ("botocore", "aiohttp", "s3fs", "Errno", "Could not connect", "An error occurred", "Traceback")


def succeeds(action: Callable[[], object]) -> bool:
    try:
        action()
    except StoreUnavailable:
        return False
    return True


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


def test_objects_have_the_day_in_their_key(s3: S3Server) -> None:
    options = options_for(s3)
    files = RemoteFiles(options)
    inspection_id = UUID("01a200cf-24a2-74fb-a0f8-9e8d0de452cf")  # 2026-11-22 01:11:45 UTC
    files.write_image(inspection_id, "image/jpeg", b"jpeg").sync()
    files.probe()
    bucket = options.url.split("/")[2]
    assert s3.keys(bucket) == [f"line 1/ü/2026/11/22/{inspection_id}.jpg"]
    files.close()


@pytest.mark.parametrize("fault", ["refuse", "freeze"])
def test_server_that_does_not_respond_is_noticed_and_recovers(stoppable_s3: S3Server, fault: str) -> None:
    options = options_for(stoppable_s3)
    patient, files = RemoteFiles(options), RemoteFiles(replace(options, **QUICK))
    before, failed = new_id(), new_id()
    for inspection_id in (before, failed):
        patient.write_image(inspection_id, "image/png", b"before").sync()
    with contextlib.suppress(ArtefactGone):
        files.image_of(make_row())  # connects
    getattr(stoppable_s3, fault)()
    started = time.monotonic()
    reasons: list[str] = []
    attempts: list[Callable[[], object]] = [
        lambda: files.write_image(new_id(), "image/png", b"x"),
        lambda: files.image_of(record(before)),
        files.probe,
    ]
    for attempt in attempts:
        with pytest.raises(StoreUnavailable) as raised:
            attempt()
        reasons.append(raised.value.detail)
    assert time.monotonic() - started < 3 * files._options.deadline_s + 3, "each request has a deadline"
    assert not any(word in reason for reason in reasons for word in FOREIGN), reasons
    assert "respond" in reasons[0] or "no server listens" in reasons[0]
    with pytest.raises(StoreUnavailable):
        files.require_writable()
    started = time.monotonic()
    files.remove(failed, "image/png")
    assert time.monotonic() - started < 0.2, "deleted after the next probe"
    getattr(stoppable_s3, "accept" if fault == "refuse" else "thaw")()
    wait_for(lambda: succeeds(files.probe))
    files.require_writable()
    assert patient.image_of(record(before)) == b"before"
    with pytest.raises(ArtefactGone):
        patient.image_of(record(failed))
    for opened in (files, patient):
        opened.close()


def test_object_that_cannot_be_deleted_is_deleted_later(stoppable_s3: S3Server) -> None:
    files = RemoteFiles(options_for(stoppable_s3, attempts=1))
    inspection_id = new_id()
    files.write_image(inspection_id, "image/png", b"x").sync()
    stoppable_s3.refuse()
    files.remove(inspection_id, "image/png")
    with pytest.raises(StoreUnavailable, match="cannot be deleted from the object store"):
        files.unlink(inspection_id, "image/png")
    others = [Artefacts(one, "image/png") for one in (inspection_id, new_id())]
    assert list(files.unlink_all(others)) == [item.inspection_id for item in others]
    stoppable_s3.accept()
    assert files.image_of(record(inspection_id)) == b"x"
    files.probe()
    with pytest.raises(ArtefactGone):
        files.image_of(record(inspection_id))
    files.close()


def test_objects_are_deleted_one_by_one_if_the_server_refuses_to_delete_several(s3: S3Server) -> None:
    options = options_for(s3)
    files, items = RemoteFiles(options), [Artefacts(new_id(), "image/png") for _ in range(3)]
    bucket = options.url.split("/")[2]
    for item in items:
        files.write_image(item.inspection_id, item.media_type, b"x").sync()
    file_system = files._file_system._connect()
    add = file_system._s3.meta.events.register_first
    refused: list[int] = []

    def refuse(**_options: Any) -> None:
        refused.append(1)
        raise ClientError({"Error": {"Code": "NotImplemented", "Message": "no"}}, "DeleteObjects")

    add("before-call.s3.DeleteObjects", refuse)
    assert files.unlink_all(items) == {}
    assert (len(refused), s3.keys(bucket)) == (1, [])
    files.close()


def test_object_that_the_server_keeps_is_named(s3: S3Server) -> None:
    options = options_for(s3)
    files, items = RemoteFiles(options), [Artefacts(new_id(), "image/png") for _ in range(3)]
    for item in items:
        files.write_image(item.inspection_id, item.media_type, b"x").sync()
    key = f"line 1/ü/{image_name(items[1].inspection_id, 'image/png')}"

    def keep(parsed: dict[str, Any], **_options: Any) -> None:
        parsed["Errors"] = [{"Key": key, "Code": "AccessDenied", "Message": "no"}]

    files._file_system._connect()._s3.meta.events.register("after-call.s3.DeleteObjects", keep)
    failed = files.unlink_all(items)
    assert list(failed) == [items[1].inspection_id]
    assert "access is denied" in failed[items[1].inspection_id].detail
    files.close()


def test_missing_bucket_is_not_a_missing_image(s3: S3Server) -> None:
    files = RemoteFiles(ArtefactOptions("s3://missing-bucket/x", s3.url))
    for attempt in (files.probe, lambda: files.image_of(make_row())):
        with pytest.raises(StoreUnavailable, match="the bucket does not exist"):
            attempt()
    files.close()


def test_missing_credentials_are_named(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    files = RemoteFiles(options_for(s3))
    with pytest.raises(StoreUnavailable, match="no credentials were found"):
        files.probe()
    files.close()


def test_readiness_follows_the_server(stoppable_s3: S3Server, tmp_path: Path) -> None:
    options = StoreOptions(artefacts=options_for(stoppable_s3, attempts=1))
    stoppable_s3.refuse()
    store = Store.open(f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "data", options)
    probe = StoreProbe(store, 0)
    (problem,) = probe()
    assert "cannot be written to the object store" in problem
    with pytest.raises(StoreUnavailable):
        store.require_writable()
    stoppable_s3.accept()
    assert probe() == ()
    store.require_writable()
    store.close()


def test_one_slow_request_does_not_delay_the_others(s3: S3Server) -> None:
    """Requests run on one event loop, which none of them may block."""
    files = RemoteFiles(options_for(s3))
    stop, durations = threading.Event(), []

    def write_large() -> None:
        while not stop.is_set():
            files.write_image(new_id(), "image/png", bytes(8 * 2**20)).sync()

    thread = threading.Thread(target=write_large)
    thread.start()
    for _ in range(5):
        started = time.monotonic()
        files.write_image(new_id(), "image/png", b"small").sync()
        durations.append(time.monotonic() - started)
    stop.set()
    thread.join()
    files.close()
    assert sorted(durations)[2] < 2
