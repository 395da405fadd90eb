"""Commands with a bundle store."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, update

from service.bundle.bundle import Bundle
from service.bundle.manifest import MODEL
from service.cli import offline
from service.deployment.sources import importing, opening
from service.store.audit import SERVICE
from service.store.bundles.table import BundleTable
from service.store.choices import BundleChoices
from service.store.models import BundleRow
from service.store.records import ChoiceDraft
from service.store.store import Store
from tests.bundles import write_tiny_bundle
from tests.command_line import run
from tests.running_service import GOOD


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the bundle store. Commands use the folders `cache` and `data` beside it."""
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setenv("PLUMBLINE_BUNDLE_STORE", f"file://{folder}")
    monkeypatch.setenv("PLUMBLINE_MODELS", str(tmp_path / "cache"))
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PLUMBLINE_PROVIDER", "cpu")
    return folder


def test_repository_is_imported_and_the_import_can_be_repeated(store: Path, tmp_path: Path) -> None:
    models = tmp_path / "made"
    bolt, nut = write_tiny_bundle(models, "bolt"), write_tiny_bundle(models, "nut")
    broken = write_tiny_bundle(models, "rivet")
    graph = (broken.path / MODEL).read_bytes()
    (broken.path / MODEL).write_bytes(graph[:-1])
    result = run("bundle", "import-repository", models)
    assert result.exit_code == 1
    assert "2 stored" in result.output
    assert "2 new products." in result.output
    assert f"rivet/{broken.version}" in result.output
    assert sorted(path.name for path in store.iterdir()) == sorted([bolt.digest, nut.digest])
    (broken.path / MODEL).write_bytes(graph)
    result = run("bundle", "import-repository", models)
    assert result.exit_code == 0, result.output
    assert "1 stored" in result.output
    assert "2 in the store before, 0 broken" in result.output
    result = run("audit", "export")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("bundle:upload") == 3


def test_commands_list_the_products_of_the_store(store: Path, tmp_path: Path, tiny_models: Path) -> None:
    result = run("doctor", "--port", "0")
    assert "the bundle store holds no bundle" in result.output
    assert run("bundle", "import-repository", tiny_models).exit_code == 0
    result = run("products", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["product"] == "widget"
    folder = tmp_path / "cache" / "widget" / row["version"]
    assert sorted(path.name for path in folder.iterdir()) == ["calibration.json", "manifest.json"], (
        "no graph is fetched"
    )
    result = run("doctor", "--port", "0")
    assert "in the bundle store: 1 product(s)" in result.output
    assert "a small file was written and deleted" in result.output
    assert "not in the bundle store" not in result.output
    write_tiny_bundle(tmp_path / "cache", "nut")
    assert "1 bundles in" in run("doctor", "--port", "0").output
    store.rename(store.with_name("gone"))
    result = run("doctor", "--port", "0")
    assert result.exit_code == 1
    assert f"the folder {store} does not exist" in result.output.replace("\n", " ")


def test_archive_is_imported_into_the_store(store: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    archive = tmp_path / "widget.zip"
    assert run("bundle", "export", tiny_bundle.path, "--output", archive).exit_code == 0
    result = run("bundle", "import", archive, "--product", "widget")
    assert result.exit_code == 0, result.output
    assert [path.name for path in store.iterdir()] == [tiny_bundle.digest]
    result = run("bundle", "import", archive, "--product", "widget")
    assert "Nothing was changed" in result.output


def test_store_that_is_missing_stops_the_import_with_the_remedy(
    store: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.rmdir()
    result = run("bundle", "import-repository", tiny_models)
    assert result.exit_code == 1
    assert "does not exist. Create it, or mount it. 0 bundles were stored. Run the command again" in " ".join(
        result.output.split()
    )
    assert run("bundle", "import-repository", store / "nothing").exit_code == 2
    monkeypatch.delenv("PLUMBLINE_BUNDLE_STORE")
    result = run("bundle", "import-repository", tiny_models)
    assert result.exit_code == 2
    assert "PLUMBLINE_BUNDLE_STORE is not set" in result.output


def test_interrupted_import_continues(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "made"
    for name in ("bolt", "nut"):
        write_tiny_bundle(models, name)
    store_bundle = importing.store_bundle

    def interrupt(bundle: Bundle, *arguments: Any, **options: Any) -> bool:
        if bundle.manifest.product == "nut":
            raise KeyboardInterrupt
        return store_bundle(bundle, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(importing, "store_bundle", interrupt)
        result = run("bundle", "import-repository", models)
    assert result.exit_code == 1
    assert "Interrupted. 1 bundles were stored. Run the command again to continue." in result.output
    result = run("bundle", "import-repository", models)
    assert result.exit_code == 0
    assert "1 stored" in result.output
    assert "1 in the store before" in result.output
    assert "1 new products. Services that run now do not serve them" in result.output
    assert "new products" not in run("bundle", "import-repository", models).output


def test_imported_bundle_is_not_activated_and_a_damaged_one_is_repaired(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(month: int, **changes: Any) -> Bundle:
        return write_tiny_bundle(tmp_path / "made", created_at=datetime(2026, month, 1, tzinfo=UTC), **changes)

    made(1)
    default = made(3)
    made(4, precision="int8", converted_from=default.digest)
    # All bundles of a new product at once, with an interruption: the default of the model repository remains it.
    store_bundle = importing.store_bundle

    def interrupt(bundle: Bundle, *arguments: Any, **options: Any) -> bool:
        if bundle.digest != default.digest:
            raise KeyboardInterrupt
        return store_bundle(bundle, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(importing, "store_bundle", interrupt)
        assert run("bundle", "import-repository", tmp_path / "made").exit_code == 1
    assert run("bundle", "import-repository", tmp_path / "made").exit_code == 0
    newest = made(5)
    assert run("bundle", "import-repository", tmp_path / "made").exit_code == 0
    engine = create_engine(f"sqlite:///{tmp_path / 'data' / 'plumbline.db'}")
    (choice,) = BundleChoices(engine).history("widget", "active")
    assert (choice.bundle_digest, choice.author) == (default.digest, "plumbline"), "an import activates nothing"

    (store / newest.digest / MODEL).write_bytes(b"x")
    BundleTable(engine).set_status(newest.digest, "damaged")
    result = run("bundle", "import-repository", tmp_path / "made")
    assert "1 stored" in result.output
    assert (store / newest.digest / MODEL).read_bytes() == newest.read_model()
    stored = BundleTable(engine).get("widget", newest.version)
    assert stored is not None
    assert stored.status == "available"
    engine.dispose()


def test_damaged_file_in_the_cache_is_downloaded_again(
    store: Path, tmp_path: Path, tiny_models: Path, tiny_bundle: Bundle
) -> None:
    assert run("bundle", "import-repository", tiny_models).exit_code == 0
    graph = tmp_path / "cache" / "widget" / tiny_bundle.version / MODEL
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"x" * tiny_bundle.manifest.files[MODEL].bytes)
    image = tmp_path / "good.png"
    image.write_bytes(GOOD)
    result = run("inspect", image, "--product", "widget")
    assert result.exit_code == 0, result.output
    assert graph.read_bytes() == tiny_bundle.read_model()


def test_products_are_listed_with_one_look_at_the_cache(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bolt", "nut"):
        write_tiny_bundle(tmp_path / "made", name)
    assert run("bundle", "import-repository", tmp_path / "made").exit_code == 0
    opened: list[Any] = []

    def open_source(*arguments: Any) -> Any:
        opened.append(arguments)
        return opening.open_source(*arguments)

    monkeypatch.setattr(offline, "open_source", open_source)
    result = run("products", "--json")
    assert [row["product"] for row in json.loads(result.stdout)] == ["bolt", "nut"]
    assert len(opened) == 1


def test_bundles_that_nothing_needs_are_listed_and_removed(store: Path, tmp_path: Path) -> None:
    old, new = (
        write_tiny_bundle(tmp_path / "made", created_at=datetime(2026, month, 1, tzinfo=UTC)) for month in (1, 2)
    )
    assert run("bundle", "import-repository", tmp_path / "made").exit_code == 0
    engine = create_engine(f"sqlite:///{tmp_path / 'data' / 'plumbline.db'}")
    assert "2 of products without a chosen bundle" in run("bundle", "prune").stdout
    BundleChoices(engine).append(ChoiceDraft("widget", "active", new.digest, SERVICE, "test", "bundle:activate"))
    assert "1 active, 1 younger than the minimum age" in run("bundle", "prune").stdout
    with engine.begin() as connection:
        connection.execute(update(BundleRow).values(stored_at=datetime(2026, 3, 1, tzinfo=UTC)))
    listed = run("bundle", "prune")
    assert listed.exit_code == 0, listed.output
    for word in ("widget", old.version, old.digest, "2026-01-01 00:00 UTC", "can be removed: 1 bundles of 1 products"):
        assert word in listed.stdout
    assert run("bundle", "prune", "--remove", typed="n\n").exit_code == 1
    assert {path.name for path in store.iterdir()} == {old.digest, new.digest}, "nothing was removed yet"
    (store / ("e" * 64)).mkdir()
    (store / ("e" * 64) / MODEL).write_bytes(b"left behind")
    os.utime(store / ("e" * 64) / MODEL, (0, 0))
    result = run("bundle", "prune", "--remove", "--yes", "--json")
    assert result.exit_code == 0, result.output
    removed = json.loads(result.stdout)
    assert [one["digest"] for one in removed["bundles"]] == [old.digest]
    assert (removed["removed"], removed["orphans"], removed["kept"]["active"]) == (True, [], 1)
    assert {path.name for path in store.iterdir()} == {new.digest, "e" * 64}
    listed = run("bundle", "prune")
    assert f"files of {'e' * 64}: not in the database, written 1970-01-01" in listed.stdout
    assert run("bundle", "prune", "--remove", "--orphans", "--yes").exit_code == 0
    assert [path.name for path in store.iterdir()] == [new.digest]
    assert run("audit", "export").stdout.count("bundle:remove") == 2
    engine.dispose()


def test_removal_states_what_is_wrong(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("bundle", "prune")
    assert result.exit_code == 1
    assert "There is no database" in result.output
    write_tiny_bundle(tmp_path / "made")
    assert run("bundle", "import-repository", tmp_path / "made").exit_code == 0
    for age in ("0d", "x", "-1d"):
        result = run("bundle", "prune", "--older-than", age)
        assert result.exit_code == 2
        assert "is not a number of days from 1 to 99999, such as 30d" in " ".join(result.output.split())
    result = run("bundle", "prune", "--product", "bolt")
    assert result.exit_code == 2
    assert "has no bundle of 'bolt'. It has those of: widget." in " ".join(result.output.split())
    Store.open(f"sqlite:///{tmp_path / 'empty' / 'plumbline.db'}", tmp_path / "empty").close()
    result = run("bundle", "prune", "--remove", "--orphans", "--yes", "--data", tmp_path / "empty")
    assert result.exit_code == 2
    assert "lists no bundle, so that everything in the bundle store would be removed" in " ".join(result.output.split())
    assert len(list(store.iterdir())) == 1
    store.rename(store.with_name("gone"))
    result = run("bundle", "prune")
    assert result.exit_code == 1
    assert "does not exist. Create it, or mount it." in " ".join(result.output.split())
    monkeypatch.delenv("PLUMBLINE_BUNDLE_STORE")
    result = run("bundle", "prune")
    assert result.exit_code == 2
    assert "stop the service, and delete their folders" in " ".join(result.output.split())
