"""`plumbline inspections remove` and `compact`, and what `plumbline doctor` says about old records."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.bundle.bundle import Bundle
from service.cli.record_removal import temporary_files_in
from service.deployment.recipes import recipe_in_force
from service.recipes.recipe import Recipe
from service.store.audit import AuditFilter, list_audit
from service.store.recipes import append_recipe
from service.store.record_removal.state import state_rule
from service.store.store import Store
from tests.command_line import run
from tests.service.store.test_record_removal import OLD, add_bare, stored
from tests.service.store.test_retention import ADMIN, add

REMOVE = ("inspections", "remove")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two old records that can be removed, one with an image, one of another product, a new one."""
    folder = tmp_path / "data"
    store = Store.open(f"sqlite:///{folder / 'plumbline.db'}", folder)
    for changes in ({}, {}, {"product": "brake-disc"}):
        add_bare(store, OLD, **changes)
    add(store, OLD)
    add_bare(store, timedelta(days=1))
    store.close()
    return folder


@pytest.fixture
def opened(data: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{data / 'plumbline.db'}", data)
    yield store
    store.close()


def reported(data: Path, *options: str) -> dict[str, Any]:
    result = run(*REMOVE, "--data", data, "--json", *options)
    assert result.exit_code == 0, result.output
    return {item["product"]: item for item in json.loads(result.stdout)}


def test_dry_run_counts_and_changes_nothing(data: Path) -> None:
    before = {path: path.read_bytes() for path in data.iterdir() if path.is_file()}
    found = reported(data, "--older-than", "365d", "--dry-run")
    assert {name: item["removed"] for name, item in found.items()} == {"brake-disc": 1, "widget": 2}
    assert found["widget"]["kept"] == {"image": 1, "review": 0, "message": 0, "drift": 0, "newest": 0}
    assert {path: path.read_bytes() for path in data.iterdir() if path.is_file()} == before
    brake, widget = run(*REMOVE, "--data", data, "--older-than", "365d", "--dry-run").stdout.splitlines()
    assert brake.startswith("brake-disc: 1 would be removed, up to ")
    assert "widget: 2 would be removed" in widget
    assert widget.endswith(": 1 with an image or map")


def test_command_removes_what_the_dry_run_counts_and_is_in_the_audit_log(data: Path, opened: Store) -> None:
    assert len(stored(opened)) == 5
    found = reported(data, "--older-than", "365d", "--yes")
    assert {name: item["removed"] for name, item in found.items()} == {"brake-disc": 1, "widget": 2}
    assert len(stored(opened)) == 2, "beside a service that has the store open"
    done, announced = list_audit(opened.engine, AuditFilter(action="records:remove"))
    assert {done.actor_kind, announced.actor_kind} == {"command-line"}
    assert done.after["removed"] == {"brake-disc": 1, "widget": 2}
    assert set(announced.after["limits"]) == {"brake-disc", "widget"}
    assert reported(data, "--older-than", "365d", "--yes")["widget"]["removed"] == 0
    assert len(list_audit(opened.engine, AuditFilter(action="records:remove"))) == 2
    result = run("inspections", "export", "--out", data / "all.csv", "--data", data)
    assert "were removed for their age" in result.stderr
    result = run(
        "inspections", "export", "--out", data / "new.csv", "--data", data, "--since", f"{datetime.now(UTC):%Y-%m-%d}"
    )
    assert "were removed" not in result.stderr


def test_exceptions_of_the_setting_hold_unless_the_product_is_named(
    data: Path, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_RECORD_DAYS", "3650,brake-disc=5475")
    assert reported(data, "--dry-run")["widget"]["removed"] == 0, "by the setting"
    found = reported(data, "--older-than", "100d", "--dry-run")
    assert {name: item["removed"] for name, item in found.items()} == {"brake-disc": 0, "widget": 2}
    found = reported(data, "--older-than", "100d", "--product", "brake-disc", "--yes")
    assert {name: item["removed"] for name, item in found.items()} == {"brake-disc": 1}
    assert len(stored(opened)) == 4


def test_rule_of_the_service_holds_in_a_shell_without_its_settings(
    data: Path, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_rule(opened.engine, "3650,brake-disc=5475,washer=30")
    found = reported(data, "--older-than", "365d", "--yes")
    assert {name: item["removed"] for name, item in found.items()} == {"brake-disc": 0, "widget": 2}
    monkeypatch.setenv("PLUMBLINE_RECORD_DAYS", "365")
    refused = run(*REMOVE, "--data", data, "--yes")
    assert refused.exit_code == 2
    assert "Run the command with the settings of the service" in " ".join(refused.stderr.split())
    counted = run(*REMOVE, "--data", data, "--dry-run")
    assert "brake-disc: 1 would be removed" in counted.stdout, "what another value would remove can be counted"
    assert "'3650,brake-disc=5475,washer=30' in the service" in " ".join(counted.stderr.split())
    assert reported(data, "--older-than", "365d", "--product", "brake-disc", "--yes")["brake-disc"]["removed"] == 1


def test_json_is_the_only_output_and_products_that_are_kept_are_named(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_RECORD_DAYS", "365,brake-disc=forever")
    result = run(*REMOVE, "--data", data, "--json", "--product", "brake-disc", "--yes")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert "Records of brake-disc are kept for ever" in result.stderr
    result = run(*REMOVE, "--data", data, "--json", typed="y\n")
    assert "widget: 2 to remove" in result.stderr
    printed = result.stdout.removeprefix(" y\n")  # the test runner repeats what was typed
    assert [item["removed"] for item in json.loads(printed)] == [2]


def test_sqlite_writes_its_temporary_files_beside_the_database(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    connection = sqlite3.connect(tmp_path / "any.db")
    with temporary_files_in(connection, folder):
        assert connection.execute("PRAGMA temp_store_directory").fetchone() == (str(folder),)
    assert connection.execute("PRAGMA temp_store_directory").fetchone() is None
    connection.close()


def test_without_a_confirmation_nothing_is_removed(data: Path, opened: Store) -> None:
    refused = run(*REMOVE, "--data", data, "--older-than", "365d", typed="n\n")
    assert refused.exit_code == 1
    assert "Remove 3 records?" in refused.output
    assert len(stored(opened)) == 5
    assert run(*REMOVE, "--data", data, "--older-than", "365d", typed="y\n").exit_code == 0
    assert len(stored(opened)) == 2


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        ((), 2, "Give --older-than"),
        (("--older-than", "1y"), 2, "is not a number of days from 1 to 36500, such as 365d"),
        (("--older-than", "0d"), 2, "is not a number of days"),
        (("--older-than", "365d", "--product", "wigdet"), 2, "Stored are: brake-disc, widget"),
    ],
)
def test_wrong_usage_is_explained(data: Path, options: tuple[str, ...], exit_code: int, message: str) -> None:
    result = run(*REMOVE, "--data", data, "--yes", *options)
    assert result.exit_code == exit_code, result.output
    assert message in " ".join(result.output.split())


def test_records_for_which_requests_are_answered_again_are_not_removed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_IDEMPOTENCY_HOURS", "240")
    result = run(*REMOVE, "--data", data, "--older-than", "9d", "--dry-run")
    assert result.exit_code == 2
    assert "from 10 to 36500" in " ".join(result.output.split())


@pytest.mark.slow
def test_compact_makes_the_file_smaller_and_needs_the_service_to_be_stopped(data: Path) -> None:
    store = Store.open(f"sqlite:///{data / 'plumbline.db'}", data)
    for _ in range(20):
        add_bare(store, OLD, regions=[{"polygon": [[1, 2]] * 2000}])
    refused = run("inspections", "compact", "--data", data)
    assert refused.exit_code == 1, refused.output
    store.close()
    reported(data, "--older-than", "365d", "--yes")
    before = (data / "plumbline.db").stat().st_size
    result = run("inspections", "compact", "--data", data)
    assert result.exit_code == 0, result.output
    assert (data / "plumbline.db").stat().st_size < before
    reopened = Store.open(f"sqlite:///{data / 'plumbline.db'}", data)
    assert len(stored(reopened)) == 3, "one with an image, and the newest ones by time and by place in the file"
    reopened.close()


@pytest.mark.slow
def test_doctor_states_the_rule_and_what_prevents_it(
    data: Path, tiny_models: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doctor() -> str:
        options = ("--models", tiny_models, "--data", data, "--port", "0", "--provider", "cpu")
        return " ".join(run("doctor", *options).output.split())

    assert f"kept for ever; the oldest is of {datetime.now(UTC) - OLD:%Y-%m-%d}" in doctor()
    monkeypatch.setenv("PLUMBLINE_RECORD_DAYS", "365,brake-dics=5475")
    found = doctor()
    assert "kept for PLUMBLINE_RECORD_DAYS=365,brake-dics=5475" in found
    assert "images of good parts are kept for ever, and their records with them: brake-disc, widget" in found
    assert "names products without inspections and bundles: brake-dics" in found
    store = Store.open(f"sqlite:///{data / 'plumbline.db'}", data)
    recipe_in_force(store.engine, tiny_bundle)
    recipe = Recipe.default(tiny_bundle.card.scores).changed({"retention": {"pass": {"days": 30}}})
    append_recipe(store.engine, tiny_bundle, recipe, actor=ADMIN, reason="b", confirm_removal=100)
    store.close()
    reported(data, "--older-than", "365d", "--yes")
    found = doctor()
    assert "their records with them: widget" not in found
    assert "3 up to" in found
