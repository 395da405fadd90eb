"""The bundle store: files of bundles in a folder and in a bucket of a real S3 server, and the table that lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.bundle.manifest import MANIFEST, MODEL
from service.store.artefacts.options import ArtefactOptions
from service.store.bundles import objects as objects_module
from service.store.bundles.errors import BundleDamaged
from service.store.bundles.objects import BundleObjects, open_objects
from service.store.bundles.table import BundleTable
from service.store.choices import BundleChoices
from service.store.errors import BundleStoreUnavailable
from service.store.records import ChoiceDraft
from tests.bundles import write_tiny_bundle
from tests.databases import migrated_engine
from tests.s3 import S3Server
from tests.service.deployment.conftest import ADA

pytestmark = pytest.mark.usefixtures("aws_credentials")
FOREIGN = ("botocore", "aiohttp", "s3fs", "Errno", "Could not connect", "An error occurred", "Traceback")


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BundleObjects]:
    if request.param == "file":
        (tmp_path / "store").mkdir()
        opened = open_objects(ArtefactOptions(f"file://{tmp_path / 'store'}"))
    else:
        server: S3Server = request.getfixturevalue("s3")
        opened = open_objects(ArtefactOptions(f"s3://{server.bucket()}/bundles ü", server.url))
    yield opened
    opened.close()


def read_all(objects: BundleObjects, bundle: Bundle, name: str) -> bytes:
    return b"".join(objects.download(bundle.digest, name, bundle.manifest.files[name]))


def test_stored_files_are_those_of_the_bundle(
    objects: BundleObjects, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pieces that end where a file ends, and pieces that do not.
    for piece in (tiny_bundle.manifest.files[MODEL].bytes, 1000):
        monkeypatch.setattr(objects_module, "PIECE_BYTES", piece)
        objects.store(tiny_bundle)
        for name in tiny_bundle.manifest.files:
            assert read_all(objects, tiny_bundle, name) == tiny_bundle.read_file(name)
    assert objects.read(f"{tiny_bundle.digest}/{MANIFEST}", 0, 2**20) == tiny_bundle.read_file(MANIFEST)
    objects.probe()


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda data: data[:-1], r"it has \d+ of \d+ bytes"),
        (lambda data: data + b"x", r"it has more than \d+ bytes"),
        (lambda data: b"x" + data[1:], "the SHA-256 differs"),
    ],
)
def test_damaged_file_is_noticed_and_repaired_by_the_next_upload(
    objects: BundleObjects, tiny_bundle: Bundle, change: object, how: str
) -> None:
    objects.store(tiny_bundle)
    assert callable(change)
    objects.write(f"{tiny_bundle.digest}/{MODEL}", change(tiny_bundle.read_model()))
    with pytest.raises(BundleDamaged, match=f"{MODEL} of bundle {tiny_bundle.version}.*{how}") as raised:
        read_all(objects, tiny_bundle, MODEL)
    assert raised.value.retry_after_s is not None
    objects.store(tiny_bundle)
    assert read_all(objects, tiny_bundle, MODEL) == tiny_bundle.read_model()


def test_missing_file_is_damage(objects: BundleObjects, tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleDamaged, match="it is missing"):
        read_all(objects, tiny_bundle, MODEL)


def test_state_of_a_file_changes_with_its_content(objects: BundleObjects) -> None:
    assert objects.state("bundle/file") is None
    objects.write("bundle/file", b"one")
    first = objects.state("bundle/file")
    assert first is not None
    assert objects.state("bundle/file") == first
    objects.write("bundle/file", b"two")
    assert objects.state("bundle/file") not in {None, first}


def test_missing_folder_is_not_created(tiny_bundle: Bundle, tmp_path: Path) -> None:
    objects = open_objects(ArtefactOptions(f"file://{tmp_path / 'not-mounted'}"))
    for attempt in (lambda: objects.store(tiny_bundle), objects.probe, lambda: read_all(objects, tiny_bundle, MODEL)):
        with pytest.raises(BundleStoreUnavailable, match="not-mounted does not exist"):
            attempt()
    assert not (tmp_path / "not-mounted").exists()


@pytest.mark.slow
def test_server_that_is_down_is_named(stoppable_s3: S3Server, tiny_bundle: Bundle) -> None:
    options = ArtefactOptions(f"s3://{stoppable_s3.bucket()}", stoppable_s3.url, 0.3, 0.3, 1)
    objects = open_objects(options)
    objects.store(tiny_bundle)
    stoppable_s3.refuse()
    attempts: list[Callable[[], object]] = [
        lambda: objects.store(tiny_bundle),
        objects.probe,
        lambda: read_all(objects, tiny_bundle, MODEL),
        lambda: objects.state(f"{tiny_bundle.digest}/{MODEL}"),
    ]
    for attempt in attempts:
        with pytest.raises(BundleStoreUnavailable) as raised:
            attempt()
        assert not isinstance(raised.value, BundleDamaged)
        assert not any(word in raised.value.detail for word in FOREIGN), raised.value.detail
    stoppable_s3.accept()
    assert read_all(objects, tiny_bundle, MODEL) == tiny_bundle.read_model()
    objects.close()
    missing = open_objects(ArtefactOptions("s3://missing-bucket/x", stoppable_s3.url))
    with pytest.raises(BundleStoreUnavailable, match="the bucket does not exist"):
        read_all(missing, tiny_bundle, MODEL)
    missing.close()


def test_unsupported_url_is_named() -> None:
    with pytest.raises(BundleStoreUnavailable, match="nonsense:// URLs are not supported"):
        open_objects(ArtefactOptions("nonsense://x"))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = migrated_engine(database_url)
    yield opened
    opened.dispose()


def test_table_lists_products_and_versions(engine: Engine, tmp_path: Path) -> None:
    table = BundleTable(engine)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    first, newest, second = (write_tiny_bundle(tmp_path, created_at=start + timedelta(days=days)) for days in (0, 2, 1))
    nut = write_tiny_bundle(tmp_path, "nut")
    for bundle in (first, newest, second, nut):
        assert table.add(bundle, table.text_of(bundle))
        assert not table.add(bundle, table.text_of(bundle))
    assert table.products() == {"widget", "nut"}
    assert table.versions("widget") == [newest.version, second.version, first.version]
    assert table.versions("bolt") == []
    stored = table.get("nut", nut.version)
    assert stored is not None
    assert (stored.digest, stored.manifest, stored.status) == (nut.digest, nut.manifest, "available")
    assert table.get("nut", first.version) is None
    assert len(table.keys()) == 4
    table.set_status(nut.digest, "damaged")
    damaged = table.get("nut", nut.version)
    assert damaged is not None
    assert damaged.status == "damaged"
    table.add(nut, table.text_of(nut))
    repaired = table.get("nut", nut.version)
    assert repaired is not None
    assert repaired.status == "available"


def test_chosen_bundles_are_the_newest_choices(engine: Engine, tmp_path: Path) -> None:
    table, choices = BundleTable(engine), BundleChoices(engine)
    old, new, shadow = ("a" * 64, "b" * 64, "c" * 64)
    choices.append(ChoiceDraft("widget", "active", old, ADA, "test", "bundle:activate"))
    choices.append(ChoiceDraft("widget", "active", new, ADA, "test", "bundle:activate"))
    choices.append(ChoiceDraft("widget", "shadow", shadow, ADA, "test", "shadow:start"))
    choices.append(ChoiceDraft("nut", "shadow", shadow, ADA, "test", "shadow:start"))
    choices.append(ChoiceDraft("nut", "shadow", None, ADA, "test", "shadow:stop"))
    assert table.chosen() == {("widget", new[:12]), ("widget", shadow[:12])}
