"""Images and maps in the data folder, in another folder, in memory and in a bucket of a real S3 server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import fsspec
import numpy as np
import pytest

from service.bundle.bundle import Bundle
from service.deployment.recipes import recipe_in_force
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.serving.retention import RetentionSweeper
from service.store.artefacts.files import ArtefactFiles, map_name
from service.store.artefacts.local import LocalFiles
from service.store.artefacts.opening import open_files
from service.store.artefacts.options import ArtefactOptions
from service.store.artefacts.reasons import remote_reason
from service.store.artefacts.remote import RemoteFiles
from service.store.artefacts.stored_file import PIECE_BYTES
from service.store.errors import ArtefactGone, StoreUnavailable
from service.store.ids import new_id
from service.store.inspections import get_inspection
from service.store.options import StoreOptions
from service.store.probe import StoreProbe
from service.store.recipes import append_recipe
from service.store.records import Artefacts
from service.store.store import Store
from tests.service.store.artefacts import options_for, record
from tests.service.store.test_retention import ADMIN

KINDS = ["data", "file", "memory", pytest.param("s3", marks=pytest.mark.slow)]
LARGE = bytes(range(256)) * (PIECE_BYTES // 256 * 2 + 3)


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


def test_files_are_read_as_they_were_written(files: ArtefactFiles) -> None:
    one, other = new_id(), new_id()
    files.write_image(one, "image/png", LARGE).sync()
    files.write_map(one, np.eye(3, dtype=np.float32)).sync()
    files.write_image(other, "image/png", b"small").sync()
    assert files.image_of(record(one)) == LARGE
    assert files.image_of(record(other)) == b"small"
    np.testing.assert_array_equal(files.map_of(record(one)), np.eye(3, dtype=np.float32))


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


def test_files_of_many_inspections_are_deleted_at_once(files: ArtefactFiles) -> None:
    items = [Artefacts(new_id(), "image/png") for _ in range(5)]
    for item in items[:-1]:
        files.write_image(item.inspection_id, item.media_type, b"x").sync()
        files.write_map(item.inspection_id, np.eye(2, dtype=np.float32)).sync()
    kept = items.pop(0).inspection_id
    assert files.unlink_all(items) == {}, "also if one does not exist"
    for item in items:
        for read in (files.image_of, files.map_of):
            with pytest.raises(ArtefactGone):
                read(record(item.inspection_id))
    assert files.image_of(record(kept)) == b"x"


def test_file_that_cannot_be_deleted_does_not_keep_others(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path / "files")
    files.prepare()
    items = [Artefacts(new_id(), "image/png") for _ in range(3)]
    for item in items:
        files.write_image(item.inspection_id, item.media_type, b"x").sync()
    (files.root / map_name(items[1].inspection_id)).mkdir()
    failed = files.unlink_all(items)
    assert list(failed) == [items[1].inspection_id]
    assert "cannot be deleted" in failed[items[1].inspection_id].detail
    for item in (items[0], items[2]):
        with pytest.raises(ArtefactGone):
            files.image_of(record(item.inspection_id))


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
            stack.enter_context(files._file_system._lock)  # as if another thread connected at this moment
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
    with pytest.raises(StoreUnavailable, match=r"pip install ./client '\.\[s3\]'"):
        RemoteFiles(ArtefactOptions("s3://bucket"))
    monkeypatch.undo()
    with pytest.raises(StoreUnavailable, match="nonsense:// URLs are not supported"):
        RemoteFiles(ArtefactOptions("nonsense://bucket"))


@pytest.mark.slow
def test_service_without_remote_files_imports_nothing_for_them() -> None:
    unused = "'fsspec', 'service.store.bundles.objects', 'service.deployment.sources.stored'"
    script = f"import sys, service.app; sys.exit(any(name in sys.modules for name in ({unused})))"
    subprocess.run([sys.executable, "-c", script], check=True)


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
