"""Images and maps in the data folder, in another folder, in memory and in a bucket of a real S3 server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import fsspec
import numpy as np
import pytest

from service.bundle.bundle import Bundle
from service.deployment.recipes import recipe_in_force
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.serving.retention import RetentionSweeper
from service.store.artefacts.files import ArtefactFiles
from service.store.artefacts.local import LocalFiles
from service.store.artefacts.opening import open_files
from service.store.artefacts.options import ArtefactOptions
from service.store.artefacts.reasons import remote_reason
from service.store.artefacts.remote import RemoteFiles
from service.store.artefacts.stored_file import PIECE_BYTES
from service.store.errors import ArtefactGone, StoreUnavailable
from service.store.ids import created_at, new_id
from service.store.inspections import get_inspection
from service.store.options import StoreOptions
from service.store.probe import StoreProbe
from service.store.recipes import append_recipe
from service.store.records import InspectionRecord
from service.store.store import Store
from tests.s3 import S3Server
from tests.service.store.test_retention import ADMIN
from tests.service.store.test_store import make_row

KINDS = ["data", "file", "memory", pytest.param("s3", marks=pytest.mark.slow)]
LARGE = bytes(range(256)) * (PIECE_BYTES // 256 * 2 + 3)
QUICK: dict[str, Any] = {"connect_timeout_s": 0.3, "read_timeout_s": 0.3, "attempts": 2}
FOREIGN = ("botocore", "aiohttp", "s3fs", "Errno", "Could not connect", "An error occurred", "Traceback")


def options_for(s3: S3Server, **changes: Any) -> ArtefactOptions:
    return ArtefactOptions(f"s3://{s3.bucket()}/line 1/ü", s3.url, **changes)


@pytest.fixture(params=KINDS)
def options(request: pytest.FixtureRequest, tmp_path: Path) -> ArtefactOptions:
    if request.param == "s3":
        request.getfixturevalue("aws_credentials")
        return options_for(request.getfixturevalue("s3"))
    urls = {"data": "", "file": (tmp_path / "elsewhere" / "a b").as_uri(), "memory": f"memory://{tmp_path.name}"}
    return ArtefactOptions(urls[request.param])


@pytest.fixture
def files(options: ArtefactOptions, tmp_path: Path) -> Iterator[ArtefactFiles]:
    opened = open_files(options, tmp_path / "data")
    (tmp_path / "data").mkdir()
    opened.prepare()
    yield opened
    opened.close()


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


def record(inspection_id: UUID, **changes: object) -> InspectionRecord:
    return make_row(id=str(inspection_id), created_at=created_at(inspection_id), **changes)


def test_files_are_read_as_they_were_written(files: ArtefactFiles) -> None:
    one, other = new_id(), new_id()
    files.write_image(one, "image/png", LARGE).sync()
    files.write_map(one, np.eye(3, dtype=np.float32)).sync()
    files.write_image(other, "image/png", b"small").sync()
    assert files.image_of(record(one)) == LARGE
    assert files.image_of(record(other)) == b"small"
    assert files.map_of(record(one)).startswith(b"\x93NUMPY")


def test_large_file_is_read_in_pieces(files: ArtefactFiles) -> None:
    inspection_id = new_id()
    files.write_image(inspection_id, "image/png", LARGE).sync()
    file = files.open_image(record(inspection_id))
    pieces = [file.start]
    while sum(map(len, pieces)) < file.size:
        pieces.append(file.read(sum(map(len, pieces))))
    assert b"".join(pieces) == LARGE
    assert file.size == len(LARGE)
    assert max(map(len, pieces)) == PIECE_BYTES
    with pytest.raises(StoreUnavailable):
        file.read(len(LARGE) + 10)
    files.unlink(inspection_id, "image/png")
    with pytest.raises(StoreUnavailable, match="removed while it was read"):
        file.read(PIECE_BYTES)


def test_file_of_exactly_one_piece_is_complete(files: ArtefactFiles) -> None:
    inspection_id = new_id()
    files.write_image(inspection_id, "image/png", LARGE[:PIECE_BYTES]).sync()
    file = files.open_image(record(inspection_id))
    assert (file.size, file.start) == (PIECE_BYTES, LARGE[:PIECE_BYTES])
    examined = files.open_image(record(inspection_id), with_content=False)
    assert (examined.size, examined.start) == (PIECE_BYTES, b"")
    with pytest.raises(ArtefactGone):
        files.open_map(record(inspection_id), with_content=False)


def test_missing_file_is_gone_and_names_when_it_was_removed(files: ArtefactFiles) -> None:
    removed_at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    row = record(new_id(), artefacts_removed_at=removed_at)
    for read in (files.image_of, files.map_of, files.open_image, files.open_map):
        with pytest.raises(ArtefactGone, match="2026-03-01"):
            read(row)


def test_deleted_files_can_be_deleted_again(files: ArtefactFiles) -> None:
    inspection_id = new_id()
    files.write_image(inspection_id, "image/png", b"x").sync()
    for delete in (files.unlink, files.unlink, files.remove):
        delete(inspection_id, "image/png")
    with pytest.raises(ArtefactGone):
        files.image_of(record(inspection_id))
    files.remove_empty_days([inspection_id])


def test_file_is_replaced_as_a_whole(files: ArtefactFiles) -> None:
    inspection_id = new_id()
    files.write_image(inspection_id, "image/png", LARGE).sync()
    files.write_image(inspection_id, "image/png", b"short").sync()
    assert files.image_of(record(inspection_id)) == b"short"


def test_many_threads_write_and_read(files: ArtefactFiles) -> None:
    def work(number: int) -> bool:
        inspection_id = new_id()
        content = bytes([number]) * 5000
        files.write_image(inspection_id, "image/png", content).sync()
        return files.image_of(record(inspection_id)) == content

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(64)))


def test_probe_leaves_nothing(files: ArtefactFiles, options: ArtefactOptions, tmp_path: Path) -> None:
    files.probe()
    files.require_writable()
    if options.url.startswith("memory"):
        assert fsspec.filesystem("memory").find(options.url) == []
    elif isinstance(files, LocalFiles):
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_forked_process_reads(files: ArtefactFiles) -> None:
    inspection_id = new_id()
    files.write_image(inspection_id, "image/png", b"before").sync()
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        if isinstance(files, RemoteFiles):
            stack.enter_context(files._lock)  # as if another thread connected at this moment
        child = os.fork()
    if child == 0:
        try:
            os.write(writer, files.image_of(record(inspection_id)))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as result:
        assert result.read() == b"before"
    os.waitpid(child, 0)
    assert files.image_of(record(inspection_id)) == b"before"


def test_retention_removes_the_files(options: ArtefactOptions, tmp_path: Path, tiny_bundle: Bundle) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "data", StoreOptions(artefacts=options))
    recipe_in_force(store.engine, tiny_bundle)
    kept: list[UUID] = []
    removed: list[UUID] = []
    for days, ids in ((1, kept), (20, removed)):
        milliseconds = int((datetime.now(UTC) - timedelta(days=days)).timestamp() * 1000)
        inspection_id = UUID(int=(milliseconds << 80) | (new_id().int & ((1 << 80) - 1)))
        store.files.write_image(inspection_id, "image/png", b"png").sync()
        store.files.write_map(inspection_id, np.zeros((2, 2), np.float32)).sync()
        store.writer.write(record(inspection_id))
        ids.append(inspection_id)
    recipe = Recipe.default(tiny_bundle.card.scores).changed({"retention": {"fail": {"days": 7}}})
    append_recipe(store.engine, tiny_bundle, recipe, actor=ADMIN, reason="b", confirm_removal=100)
    RetentionSweeper(store, lambda: ["widget"], Metrics(), interval_s=600).sweep()
    assert store.files.image_of(get_inspection(store.engine, kept[0])) == b"png"
    for read in (store.files.image_of, store.files.map_of):
        with pytest.raises(ArtefactGone, match="Retention removed it"):
            read(get_inspection(store.engine, removed[0]))
    assert StoreProbe(store, 0)() == ()
    store.close()


def test_folder_given_as_url_is_as_durable_as_the_data_folder(tmp_path: Path) -> None:
    files = open_files(ArtefactOptions(f"file://{tmp_path}/a%20b"), tmp_path / "data")
    assert isinstance(files, LocalFiles)
    assert files.root == tmp_path / "a b"
    data = open_files(ArtefactOptions(), tmp_path / "data")
    assert isinstance(data, LocalFiles)
    assert data.root == tmp_path / "data" / "inspections"


def test_probe_writes_to_both_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    options = StoreOptions(artefacts=ArtefactOptions(other.as_uri()))
    store = Store.open(f"sqlite:///{tmp_path / 'data' / 'x.db'}", tmp_path / "data", options)
    assert StoreProbe(store, 0)() == ()
    for full in (other, tmp_path / "data"):

        def write(folder: Path, full: Path = full) -> None:
            if folder == full:
                raise StoreUnavailable(f"{folder} cannot be written")

        monkeypatch.setattr("service.store.artefacts.local.probe_write", write)
        monkeypatch.setattr("service.store.probe.probe_write", write)
        (problem,) = StoreProbe(store, 0)()
        assert str(full) in problem
    store.close()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_protocol: str) -> None:
        raise ImportError("no s3fs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", fail)
    with pytest.raises(StoreUnavailable, match=r"pip install 'plumbline\[s3\]'"):
        RemoteFiles(ArtefactOptions("s3://bucket"))
    monkeypatch.undo()
    with pytest.raises(StoreUnavailable, match="nonsense:// URLs are not supported"):
        RemoteFiles(ArtefactOptions("nonsense://bucket"))


@pytest.mark.slow
def test_service_without_remote_files_does_not_import_fsspec() -> None:
    script = "import sys, service.app; sys.exit('fsspec' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("aws_credentials")
class TestS3:
    """What is particular to S3."""

    def test_objects_have_the_day_in_their_key(self, s3: S3Server) -> None:
        options = options_for(s3)
        files = RemoteFiles(options)
        inspection_id = UUID("01a200cf-24a2-74fb-a0f8-9e8d0de452cf")  # 2026-11-22 01:11:45 UTC
        files.write_image(inspection_id, "image/jpeg", b"jpeg").sync()
        files.probe()
        bucket = options.url.split("/")[2]
        assert s3.keys(bucket) == [f"line 1/ü/2026/11/22/{inspection_id}.jpg"]
        files.close()

    @pytest.mark.parametrize("fault", ["refuse", "freeze"])
    def test_server_that_does_not_respond_is_noticed_and_recovers(self, stoppable_s3: S3Server, fault: str) -> None:
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

    def test_object_that_cannot_be_deleted_is_deleted_later(self, stoppable_s3: S3Server) -> None:
        files = RemoteFiles(options_for(stoppable_s3, attempts=1))
        inspection_id = new_id()
        files.write_image(inspection_id, "image/png", b"x").sync()
        stoppable_s3.refuse()
        files.remove(inspection_id, "image/png")
        with pytest.raises(StoreUnavailable, match="cannot be deleted from the object store"):
            files.unlink(inspection_id, "image/png")
        stoppable_s3.accept()
        assert files.image_of(record(inspection_id)) == b"x"
        files.probe()
        with pytest.raises(ArtefactGone):
            files.image_of(record(inspection_id))
        files.close()

    def test_missing_bucket_is_not_a_missing_image(self, s3: S3Server) -> None:
        files = RemoteFiles(ArtefactOptions("s3://missing-bucket/x", s3.url))
        for attempt in (files.probe, lambda: files.image_of(make_row())):
            with pytest.raises(StoreUnavailable, match="the bucket does not exist"):
                attempt()
        files.close()

    def test_missing_credentials_are_named(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        files = RemoteFiles(options_for(s3))
        with pytest.raises(StoreUnavailable, match="no credentials were found"):
            files.probe()
        files.close()

    def test_readiness_follows_the_server(self, stoppable_s3: S3Server, tmp_path: Path) -> None:
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

    def test_one_slow_request_does_not_delay_the_others(self, s3: S3Server) -> None:
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("An error occurred"), "access is denied"),
        (TimeoutError(), "does not respond"),
        (ConnectionResetError(), "connection was closed"),
        (RuntimeError("anything"), "see the log"),
    ],
)
def test_failures_have_reasons_in_plain_words(error: Exception, words: str) -> None:
    assert words in remote_reason(error)


def test_failure_in_the_cause_is_found() -> None:
    cause = Exception()
    cause.response = {"Error": {"Code": "SlowDown"}}  # type: ignore[attr-defined]
    error = OSError("Please reduce your request rate.")
    error.__cause__ = cause
    assert remote_reason(error) == "it receives too many requests"
