"""`plumbline doctor`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import create_engine

from service.cli import network_checks
from service.cli.findings import Health
from service.cli.network_checks import check_port
from service.store.database import _upgrade
from service.store.lock import FileLock, lock_owner
from service.store.schema import newest_revision
from tests.bundles import tiny_draft, write_tiny_bundle
from tests.command_line import run
from tests.databases import migrated_engine, pretend_newer
from tests.running_service import GOOD, Serve

EVERYWHERE = "0.0.0.0"  # noqa: S104 - not bound


def test_doctor_finds_no_problem_on_a_working_machine(tiny_models: Path, tmp_path: Path) -> None:
    result = run("doctor", "--models", tiny_models, "--data", tmp_path / "data", "--port", "0", "--provider", "cpu")
    assert result.exit_code == 0, result.output
    for subject in (
        "python",
        "libraries",
        "cpu",
        "data folder",
        "disk",
        "database",
        "port",
        "model repository",
        "bundle widget/",
    ):
        assert subject in result.output


def test_doctor_reports_problems_with_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_PROT", "9000")
    models = tmp_path / "models"
    bundle = write_tiny_bundle(models)
    (bundle.path / "calibration.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "plumbline.db").write_text("this is not a database " * 100)
    result = run("doctor", "--models", models, "--data", tmp_path / "data", "--port", "0", "--host", "0.0.0.0")  # noqa: S104
    assert result.exit_code == 1
    misspelt = "PLUMBLINE_PROT is not a setting (did you mean PLUMBLINE_PORT?)"
    for words in (
        misspelt,
        "calibration.json",
        "cannot be opened",
        "firewall",
    ):
        assert words in result.output, words
    assert result.output.count("→") >= 4, "each has a remedy"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_data_folder_that_others_may_read_is_a_warning(tiny_models: Path, tmp_path: Path) -> None:
    data = tmp_path / "my data"
    data.mkdir()
    data.chmod(0o755)
    options = ("doctor", "--models", tiny_models, "--data", data, "--port", "0", "--provider", "cpu")
    words = " ".join(run(*options).output.split())
    assert "other users of this machine may read" in words
    assert "chmod o-rwx '" in words
    data.chmod(0o750)
    assert "other users" not in run(*options).output


def test_doctor_creates_nothing_and_reports_missing_folders(tmp_path: Path) -> None:
    result = run("doctor", "--models", tmp_path / "modles", "--data", tmp_path / "dta", "--port", "0")
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []
    output = " ".join(result.output.split())
    assert f"{tmp_path / 'modles'} does not exist" in output
    assert f"{tmp_path / 'dta'} does not exist" in output


@pytest.mark.parametrize(
    ("options", "has_key", "words"),
    [
        (["--host", EVERYWHERE], False, "does not start"),
        (["--host", EVERYWHERE, "--insecure", "1"], False, "may do everything"),
        (["--host", EVERYWHERE], True, "need an API key or a session"),
        ([], False, "requests of this machine need none"),
    ],
)
def test_doctor_examines_who_may_use_the_service(tmp_path: Path, options: list[str], has_key: bool, words: str) -> None:
    data = tmp_path / "data"
    if has_key:
        run("key", "create", "a", "--scope", "admin", "--data", data, "--create-database")
    output = " ".join(
        run("doctor", "--models", tmp_path / "models", "--data", data, "--port", "0", *options).output.split()
    )
    assert words in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("old", "0005_bundles"),
        ("new", "it needs one that has the migration 9999_future"),
        ("compatible", "a newer version migrated its tables to 9999_future, with which this version can work"),
        ("corrupt", "corrupt"),
    ],
)
def test_doctor_reports_the_state_of_the_database_and_changes_nothing(
    tiny_models: Path, tmp_path: Path, change: str, words: str
) -> None:
    path = tmp_path / "data" / "plumbline.db"
    path.parent.mkdir()
    url = f"sqlite:///{path}"
    if change == "old":
        _upgrade(create_engine(url), "0005_bundles")
    else:
        migrated_engine(url).dispose()
    if change in ("new", "compatible"):
        pretend_newer(url, "9999_future" if change == "new" else newest_revision())
    if change == "corrupt":
        with path.open("r+b") as file:
            file.seek(5 * 4096)
            file.write(b"garbage" * 3000)
    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    options = ("--models", tiny_models, "--data", path.parent, "--port", "0", "--provider", "cpu")
    result = run("doctor", *options)
    assert words in " ".join(result.output.split())
    assert result.exit_code == (0 if change in ("old", "compatible") else 1)
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before


@pytest.mark.slow
def test_commands_that_read_never_write(tiny_models: Path, tmp_path: Path) -> None:
    data, image = tmp_path / "data", tmp_path / "part.png"
    image.write_bytes(GOOD)
    commands = (
        ("products", "--models", tiny_models, "--data", data),
        ("replay", "--product", "widget", "--models", tiny_models, "--data", data, "--provider", "cpu"),
        ("inspect", image, "--product", "widget", "--models", tiny_models, "--data", data, "--provider", "cpu"),
        ("doctor", "--models", tiny_models, "--data", data, "--port", "0", "--provider", "cpu"),
    )
    for command in commands:
        run(*command)
        assert not data.exists(), command[0]
    data.mkdir()
    _upgrade(create_engine(f"sqlite:///{data / 'plumbline.db'}"), "0006_quality")
    before = {path.name: path.stat().st_mtime_ns for path in (data, *data.iterdir())}
    for command in commands[:3]:
        result = run(*command)
        assert "0006_quality" in result.output, command[0]
        assert "plumbline serve" in " ".join(result.output.split()), command[0]
        assert {path.name: path.stat().st_mtime_ns for path in (data, *data.iterdir())} == before, command[0]


@pytest.mark.slow
def test_commands_that_read_do_not_disturb_a_running_service(serve: Serve, tiny_models: Path) -> None:
    with serve() as service:
        service.inspect()
        data = service.settings.data
        names = {path.name for path in data.rglob("*")}
        result = run("replay", "--product", "widget", "--models", tiny_models, "--data", data, "--provider", "cpu")
        assert result.exit_code == 0, result.output
        assert run("products", "--models", tiny_models, "--data", data).exit_code == 0
        assert {path.name for path in data.rglob("*")} == names
        assert service.inspect().status_code == 201


def test_doctor_warns_of_a_weak_bundle(tmp_path: Path) -> None:
    training = tiny_draft().training.model_copy(update={"weak": ["the image AUROC is 0.36"]})
    write_tiny_bundle(tmp_path / "models", training=training)
    (tmp_path / "data").mkdir()
    result = run(
        "doctor", "--models", tmp_path / "models", "--data", tmp_path / "data", "--port", "0", "--provider", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert "weak bundle: the image AUROC is 0.36" in result.output
    assert "without --allow-weak" in result.output


def test_doctor_examines_the_sinks(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET_VARIABLE", raising=False)
    file = tmp_path / "sinks.toml"
    options = ("--models", tiny_models, "--data", tmp_path, "--port", "0", "--provider", "cpu", "--sinks", file)

    missing = run("doctor", *options)
    assert missing.exit_code == 1
    assert "sinks.toml cannot be read (No such file or directory)" in missing.output

    webhook = '[[sink]]\nname = "mes"\nkind = "webhook"\nurl = "http://mes.example/hook"\nproducts = ["widgte"]\n'
    file.write_text(webhook, encoding="utf-8")
    found = run("doctor", *options)
    assert found.exit_code == 0, found.output
    for words in (
        "sink mes: http://mes.example; plumbline sink test mes",
        "sink mes: the connection is not encrypted",
        "sink mes: requests have no signature",
        "does not hold: widgte",
    ):
        assert words in found.output, words

    file.write_text(webhook + 'secret = { env = "UNSET_VARIABLE" }\n', encoding="utf-8")
    unset = run("doctor", *options)
    assert unset.exit_code == 1
    assert "secret is read from the environment variable UNSET_VARIABLE, which is not set" in unset.output


def test_doctor_prints_settings_with_several_values_as_lists(tiny_models: Path, tmp_path: Path) -> None:
    options = ("--models", tiny_models, "--data", tmp_path, "--port", "0", "--provider", "cpu")
    output = " ".join(run("doctor", *options, "--opcua-stations", "line2,line1").output.split())
    assert "opcua_stations=['line1', 'line2']" in output
    assert "frozenset" not in output


@pytest.mark.slow
def test_port_of_the_running_service_of_the_data_folder_is_no_problem(serve: Serve, tmp_path: Path) -> None:
    with serve() as service:
        settings = service.settings.model_copy(update={"port": service.port})
        (own,) = check_port(settings)
        (foreign,) = check_port(settings.model_copy(update={"data": tmp_path / "other"}))
        with socket.create_server(("127.0.0.1", 0)) as silent, patch.object(network_checks, "_RESPONSE_S", 0.2):
            (stranger,) = check_port(settings.model_copy(update={"port": silent.getsockname()[1]}))
    assert own.health is Health.OK, own
    assert f"in use by the service of this data folder, pid {os.getpid()}" in own.detail
    assert (foreign.health, stranger.health) == (Health.PROBLEM, Health.PROBLEM)
    assert not (tmp_path / "other").exists()


def test_lock_of_a_process_that_ended_names_no_owner(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", "the folder")
    assert (lock_owner(lock.path) or "").startswith(f"pid {os.getpid()} ")
    lock.release()
    assert lock_owner(lock.path) is None
    assert lock_owner(tmp_path / "missing") is None
