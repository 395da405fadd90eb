"""`plumbline bundle`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from tests.bundles import write_tiny_bundle
from tests.command_line import run


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
