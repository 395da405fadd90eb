"""`plumbline bundle`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.bundle.bundle import Bundle
from tests.bundles import write_tiny_bundle
from tests.command_line import run
from tests.library_texts import assert_own


@pytest.mark.slow
def test_bundles_are_verified(tmp_path: Path) -> None:
    intact = write_tiny_bundle(tmp_path, "bolt").path
    wrong = write_tiny_bundle(tmp_path, "nut", offset=0.5).path
    assert run("bundle", "verify", intact).exit_code == 0
    result = run("bundle", "verify", intact, wrong, "--json")
    assert result.exit_code == 1
    good, bad = json.loads(result.stdout)
    assert (good["intact"], bad["intact"]) == (True, False)
    assert bad["problem"] == "parity-failure"


def test_bundle_is_exported_and_imported(tiny_bundle: Bundle, tmp_path: Path) -> None:
    archive, models = tmp_path / "widget.zip", tmp_path / "models"
    assert run("bundle", "export", tiny_bundle.path, "--output", archive).exit_code == 0
    for words in ("Imported the bundle to", "is identical. Nothing was changed."):
        result = run("bundle", "import", archive, "--product", "widget", "--models", models)
        assert result.exit_code == 0, result.output
        assert words in result.output
    assert Bundle.load(models / "widget" / tiny_bundle.version).digest == tiny_bundle.digest
    for arguments in (
        ("import", archive, "--product", "nut", "--models", models),
        ("import", archive, "--product", "../nut", "--models", models),
        ("import", tmp_path / "nothing.zip", "--product", "widget", "--models", models),
        ("export", tmp_path),
        ("export", tiny_bundle.path, "--output", tmp_path / "no" / "folder.zip"),
    ):
        assert run("bundle", *arguments).exit_code == 2, arguments
    assert [path.name for path in models.iterdir()] == ["widget"]


def test_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    result = run("bundle", "verify", tmp_path / "nut" / "000000000000")
    assert result.exit_code == 1
    assert f"{tmp_path / 'nut' / '000000000000'} is not served: there is no such folder" in result.output.replace(
        "\n", ""
    )


def test_bundle_that_exceeds_the_limits_of_its_self_test_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_SELF_TEST_TIMEOUT_S", "0.01")
    path = write_tiny_bundle(tmp_path).path
    (report,) = json.loads(run("bundle", "verify", path, "--json").stdout)
    assert report["problem"] == "self-test-failed"


@pytest.mark.slow
def test_folder_of_a_product_stands_for_its_bundles(tmp_path: Path) -> None:
    first = write_tiny_bundle(tmp_path, "bolt")
    product, archive = first.path.parent, tmp_path / "bolt.zip"
    assert run("bundle", "export", product, "--output", archive).exit_code == 0
    assert archive.is_file()
    second = write_tiny_bundle(tmp_path, "bolt", offset=0.5)
    reports = json.loads(run("bundle", "verify", product, "--json").stdout)
    intact = {report["bundle"]: report["intact"] for report in reports}
    assert intact == {str(first.path): True, str(second.path): False}
    result = run("bundle", "export", product, "--output", archive)
    assert result.exit_code == 2
    assert first.version in result.output
    assert second.version in result.output


def test_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    (tmp_path / "washer" / "golden").mkdir(parents=True)
    result = run("bundle", "export", tmp_path / "washer")
    assert result.exit_code == 2
    assert "Give the folder models/PRODUCT/VERSION" in result.output
    assert run("bundle", "verify", tmp_path / "washer").exit_code == 1


def test_refused_import_names_no_folder_that_does_not_exist(tiny_bundle: Bundle, tmp_path: Path) -> None:
    archive, models = tmp_path / "widget.zip", tmp_path / "models"
    assert run("bundle", "export", tiny_bundle.path, "--output", archive).exit_code == 0
    result = run("bundle", "import", archive, "--product", "nut", "--models", models)
    assert "is refused: it was made for product 'widget', not for 'nut'." in result.output
    assert "Nothing was stored." in result.output
    assert str(models) not in result.output


def verified(*paths: Path) -> list[dict[str, Any]]:
    """Verify bundles and return the reports, after checking that they contain no text of a library."""
    result = run("bundle", "verify", *paths, "--json")
    assert result.exit_code == 1
    assert_own(result.stdout)
    reports: list[dict[str, Any]] = json.loads(result.stdout)
    return reports


def test_renamed_copy_is_called_renamed(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    copy = shutil.copytree(bundle.path, tmp_path / "backup")
    (report,) = verified(copy)
    assert "its folder was renamed: it is named backup, but the digest of its manifest begins" in report["detail"]
    assert f"Rename the folder to {bundle.version}." in report["detail"]
    assert "manifest was changed" not in report["detail"]


def test_everything_that_was_changed_in_a_renamed_copy_is_reported(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    copy = shutil.copytree(bundle.path, tmp_path / "backup")
    model = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(model[:-100])
    (copy / "golden/00.npz").unlink()
    (copy / "notes.txt").write_text("mine")
    (report,) = verified(copy)
    for expected in (
        "its folder was renamed",
        f"it is truncated or was changed, with {len(model) - 100} of {len(model)} bytes",
        "golden/00.npz is missing",
        "notes.txt is not listed in the manifest",
        "Copy the bundle again",
    ):
        assert expected in report["detail"]


def test_changed_manifest_is_distinguished_from_a_renamed_folder(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    manifest = bundle.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"gray-distance"', '"another"'))
    (report,) = verified(bundle.path)
    assert "its manifest was changed or its folder was renamed" in report["detail"]
    assert "Otherwise copy the bundle again" in report["detail"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{\n  "product": oops\n}', "manifest.json is not valid JSON at line 2, column 14."),
        (b'{"product": "widget"', "manifest.json is not valid JSON: it ends too early at line 1, column 20."),
        (b"\xff\xfe", "manifest.json is not valid JSON at line 1, column 1."),
        (b"", "manifest.json is not valid JSON: it ends too early"),
    ],
)
def test_manifest_that_is_not_json_is_called_so(tmp_path: Path, content: bytes, expected: str) -> None:
    bundle = write_tiny_bundle(tmp_path)
    (bundle.path / "manifest.json").write_bytes(content)
    (report,) = verified(bundle.path)
    assert expected in report["detail"]
    assert "same major version" not in report["detail"]


def test_archive_is_not_taken_for_a_missing_folder(tiny_bundle: Bundle, tmp_path: Path) -> None:
    archive, table = tmp_path / "widget.zip", tmp_path / "notes.csv"
    assert run("bundle", "export", tiny_bundle.path, "--output", archive).exit_code == 0
    table.write_bytes(b"\x00\x01\xff")
    first, second = verified(archive, table)
    assert f"{archive} is not served: this is a zip archive, expected the folder of a bundle." in first["detail"]
    assert "Unpack it, install it with `plumbline bundle import`, or upload it" in first["detail"]
    assert "this is a file, expected the folder of a bundle" in second["detail"]


def test_model_repository_is_refused_with_its_products(tmp_path: Path) -> None:
    for product in ("bolt", "nut"):
        write_tiny_bundle(tmp_path / "models", product)
    for command in ("verify", "export"):
        result = run("bundle", command, tmp_path / "models")
        assert result.exit_code == 2
        text = " ".join(result.output.split())
        assert "is a model repository, expected the folder of a product or a bundle." in text
        assert "its products are: bolt, nut." in text


def test_bundle_without_its_manifest_is_reported_with_the_others_of_the_product(tmp_path: Path) -> None:
    intact = write_tiny_bundle(tmp_path, "bolt")
    lost = write_tiny_bundle(tmp_path, "bolt", offset=0.5).path
    (lost / "manifest.json").unlink()
    reports = {report["bundle"]: report for report in verified(tmp_path / "bolt")}
    assert reports[str(intact.path)]["intact"]
    assert "manifest.json is missing" in reports[str(lost)]["detail"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"PK\x03\x04 and no more", "it is truncated"),
        (b"%PDF-1.7", "it is not a zip file but a PDF document"),
        (b"", "it is empty"),
    ],
)
def test_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    archive = tmp_path / "widget.zip"
    archive.write_bytes(content)
    result = run("bundle", "import", archive, "--product", "widget", "--models", tmp_path / "models")
    assert result.exit_code == 2
    assert expected in " ".join(result.output.split())
    assert_own(result.output)
