"""Bundles as zip files: an exported bundle can be imported, anything else is refused."""

from __future__ import annotations

import io
import os
import stat
import struct
import time
import zipfile
from pathlib import Path

import pytest

from service.bundle.archive import import_archive, read_archive, write_archive
from service.bundle.bundle import Bundle
from service.bundle.errors import (
    BundleArchiveInvalid,
    BundleIntegrity,
    BundleOfOtherProduct,
    BundleSchema,
    BundleTooLarge,
    RepositoryNotWritable,
)
from service.bundle.manifest import MANIFEST, MODEL
from service.bundle.writer import STALE_S
from tests.bundles import write_tiny_bundle

LIMIT = 10 * 2**20


def archived(bundle: Bundle) -> bytes:
    buffer = io.BytesIO()
    write_archive(bundle, buffer)
    return buffer.getvalue()


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def changed(bundle: Bundle, name: str, data: bytes) -> bytes:
    """Return the bundle as an archive with one file replaced."""
    contents = read_archive(io.BytesIO(archived(bundle)), LIMIT) | {name: data}
    return zipped(*contents.items())


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_exported_bundle_is_imported_unchanged(tiny_bundle: Bundle, tmp_path: Path) -> None:
    archive = archived(tiny_bundle)
    assert archive == archived(tiny_bundle), "the same bundle gives the same archive"
    imported, is_new = import_archive(tmp_path, "widget", io.BytesIO(archive), LIMIT)
    assert (imported.digest, is_new) == (tiny_bundle.digest, True)
    assert imported.path == tmp_path / "widget" / tiny_bundle.version
    before = everything_below(tmp_path)
    again, is_new = import_archive(tmp_path, "widget", io.BytesIO(archive), LIMIT)
    assert (again.digest, is_new) == (tiny_bundle.digest, False)
    assert everything_below(tmp_path) == before


def test_stale_staging_folders_are_removed_and_recent_ones_kept(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "widget"
    for name, age_s in ((".staging-stale", STALE_S + 60), (".staging-recent", 60)):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.onnx").write_bytes(b"half a")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    import_archive(tmp_path, "widget", io.BytesIO(archived(tiny_bundle)), LIMIT)
    assert {path.name for path in folder.iterdir()} == {".staging-recent", tiny_bundle.version}


def test_damaged_bundle_is_replaced(tiny_bundle: Bundle, tmp_path: Path) -> None:
    archive = archived(tiny_bundle)
    imported, _ = import_archive(tmp_path, "widget", io.BytesIO(archive), LIMIT)
    (imported.path / MODEL).write_bytes(b"bit rot")
    repaired, is_new = import_archive(tmp_path, "widget", io.BytesIO(archive), LIMIT)
    assert is_new
    assert Bundle.load(repaired.path).digest == tiny_bundle.digest
    assert [path.name for path in (tmp_path / "widget").iterdir()] == [tiny_bundle.version]


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04 and then nothing that makes sense", "truncated"),
        (b"something else", "not a zip file"),
        (zipped(("../manifest.json", b"{}")), "is not a file of a bundle"),
        (zipped(("/etc/passwd", b"x")), "is not a file of a bundle"),
        (zipped(("golden/../../00.npz", b"x")), "is not a file of a bundle"),
        (zipped(("golden\\00.npz", b"x")), "is not a file of a bundle"),
        (zipped(("C:/model.onnx", b"x")), "is not a file of a bundle"),
        (zipped(("e112608d837c/manifest.json", b"{}")), "is not a file of a bundle"),
        (zipped(("readme.txt", b"x")), "is not a file of a bundle"),
        (zipped((link("model.onnx"), b"/etc/passwd")), "link"),
        (zipped(("model.onnx", b"x")), "manifest.json is missing"),
        (zipped(("manifest.json", b"{}"), method=zipfile.ZIP_LZMA), "method other than"),
        (zipped(*((f"golden/{number:02}.npz", b"") for number in range(100)), *((f"x{n}", b"") for n in range(2000))),
         "central directory"),
    ],
)  # fmt: skip
def test_archive_of_anything_but_a_bundle_is_refused(tmp_path: Path, archive: bytes, reason: str) -> None:
    with pytest.raises(BundleArchiveInvalid, match=reason):
        import_archive(tmp_path, "widget", io.BytesIO(archive), LIMIT)
    assert everything_below(tmp_path) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleArchiveInvalid, match="twice"):
        import_archive(tmp_path, "widget", io.BytesIO(zipped((MANIFEST, b"{}"), (MANIFEST, b"[]"))), LIMIT)


def test_encrypted_file_is_refused() -> None:
    archive = bytearray(zipped((MANIFEST, b"{}")))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        archive[archive.index(signature) + offset] |= 1
    with pytest.raises(BundleArchiveInvalid, match="encrypted"):
        read_archive(io.BytesIO(bytes(archive)), LIMIT)


def test_zip_bomb_with_its_true_size_is_refused_before_unpacking() -> None:
    bomb = zipped((MANIFEST, b"{}"), (MODEL, bytes(LIMIT)))
    assert len(bomb) < LIMIT / 100
    with pytest.raises(BundleTooLarge):
        read_archive(io.BytesIO(bomb), LIMIT)


def test_zip_bomb_with_a_false_size_is_refused() -> None:
    bomb = bytearray(zipped((MODEL, bytes(3 * 2**20))))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", bomb, bomb.index(signature) + offset, 100)
    with pytest.raises((BundleArchiveInvalid, BundleTooLarge)):
        read_archive(io.BytesIO(bytes(bomb)), 2**20)


def test_damaged_archive_is_refused(tiny_bundle: Bundle) -> None:
    archive = bytearray(archived(tiny_bundle))
    archive[len(archive) // 2] ^= 0xFF
    with pytest.raises(BundleArchiveInvalid):
        read_archive(io.BytesIO(bytes(archive)), LIMIT)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        (MODEL, b"another graph", BundleIntegrity),
        ("calibration.json", b"{}", BundleIntegrity),
        ("golden/55.npz", b"not in the manifest", BundleIntegrity),
        (MANIFEST, b'{"schema_version": 99}', BundleSchema),
    ],
)
def test_bundle_that_contradicts_its_manifest_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, name: str, data: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised:
        import_archive(tmp_path, "widget", io.BytesIO(changed(tiny_bundle, name, data)), LIMIT)
    assert ".staging" not in str(raised.value), "names the final folder, not the staging folder"
    assert everything_below(tmp_path) == [], "no partial bundle, no empty product"


def test_bundle_of_another_product_is_refused(tmp_path: Path) -> None:
    nut = write_tiny_bundle(tmp_path / "elsewhere", "nut")
    with pytest.raises(BundleOfOtherProduct, match="'nut', not for 'bolt'"):
        import_archive(tmp_path / "models", "bolt", io.BytesIO(archived(nut)), LIMIT)
    assert everything_below(tmp_path / "models") == []


def test_repository_that_cannot_be_written_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "widget").write_text("a file where a folder should be")
    with pytest.raises(RepositoryNotWritable, match=str(tmp_path)):
        import_archive(tmp_path, "widget", io.BytesIO(archived(tiny_bundle)), LIMIT)
