"""`plumbline key` and `plumbline account`."""

from __future__ import annotations

import getpass
import json
import socket
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli.console import utc
from service.cli.main import app
from service.store import reasons
from service.store.store import Store
from tests.access import PASSWORD, bearer
from tests.command_line import run
from tests.running_service import GOOD, Serve


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def database(data: Path) -> Path:
    Store.open(f"sqlite:///{data / 'plumbline.db'}", data).close()
    return data / "plumbline.db"


def with_password(password: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), input=password)


def test_first_key_is_created_without_a_service_and_the_key_alone_is_printed(data: Path) -> None:
    result = run(
        "key", "create", "camera 1", "--scope", "inspect,review", "--station", "s1", "--days", "30", "--create-database"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().startswith("plumb_")
    assert len(result.stdout.split()) == 1, "so that a script can store it"
    assert "every request" in result.stderr
    (listed,) = json.loads(run("key", "list", "--json").stdout)
    assert (listed["name"], listed["scopes"], listed["stations"]) == ("camera 1", ["inspect", "review"], ["s1"])
    assert listed["created_by"].endswith("(command line)")
    assert "hash" not in str(listed)
    assert result.stdout.strip().split("_")[2] not in run("key", "list", "--json").stdout
    second = run("key", "create", "b", "--scope", "admin")
    assert "every request" not in second.stderr
    Store.open(f"sqlite:///{data / 'plumbline.db'}", data).close()


@pytest.mark.slow
def test_commands_work_while_the_service_runs(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path / "data"))
    with serve() as service:
        key = run("key", "create", "cam", "--scope", "inspect").stdout.strip()
        assert service.inspect(headers=bearer(key)).status_code == 201
        assert "cam" in run("key", "list").stdout
        assert with_password(PASSWORD, "account", "create", "kim", "--role", "admin").exit_code == 0
        assert run("key", "revoke", key.split("_")[1]).exit_code == 0
        assert "revoked" in run("key", "list").stdout
        assert service.services.readiness().is_ready, "the identity of the database files is unchanged"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "a", "--scope", "root"], 2, "no scope 'root'"),
        (["create", "plumbline", "--scope", "inspect"], 2, "reserved"),
        (["create", "a", "--scope", "admin", "--product", "p"], 1, "without restriction"),
        (["create", "a", "--scope", "inspect", "--if-missing"], 2, "--output"),
        (["revoke", "ghost"], 1, "no API key"),
    ],
)
@pytest.mark.usefixtures("database")
def test_wrong_use_is_explained(arguments: list[str], code: int, words: str) -> None:
    result = run("key", *arguments)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.split())


@pytest.mark.usefixtures("database")
def test_key_file_is_written_once_and_replaced_if_its_key_is_not_valid(tmp_path: Path) -> None:
    file = tmp_path / "prometheus"
    command = ["key", "create", "prometheus", "--scope", "inspect", "--output", str(file)]
    assert run(*command).stdout == ""
    first = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert run(*command).exit_code == 1, "never overwritten without --if-missing"
    assert run(*command, "--if-missing").exit_code == 0
    assert file.read_text() == first
    assert run("key", "revoke", first).exit_code == 0, "the id is taken from a complete key, too"
    assert run(*command, "--if-missing").exit_code == 0
    assert file.read_text() != first
    assert len(json.loads(run("key", "list", "--json").stdout)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_accounts_are_managed_with_passwords_from_standard_input() -> None:
    assert with_password(f"{PASSWORD}\n", "account", "create", "Kim", "--role", "engineer").exit_code == 0
    refused = with_password("kim-kim-kim-kim\n", "account", "set-password", "kim")
    assert refused.exit_code == 1
    assert "must not contain the name" in refused.output
    assert with_password("another long password\n", "account", "set-password", "kim").exit_code == 0
    assert run("account", "disable", "kim").exit_code == 0
    (listed,) = json.loads(run("account", "list", "--json").stdout)
    assert (listed["name"], listed["role"], listed["disabled_at"] is None) == ("Kim", "engineer", False)
    assert "disabled" in run("account", "list").stdout
    assert with_password("", "account", "create", "lee", "--role", "admin").exit_code == 2
    assert run("account", "disable", "ghost").exit_code == 1


def test_no_option_of_any_command_takes_a_password() -> None:
    for command in ("create", "set-password"):
        assert "--password" not in run("account", command, "--help").output


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_commands_are_recorded_with_the_user_of_the_system_and_the_host(data: Path) -> None:
    key = run("key", "create", "cam", "--scope", "inspect").stdout.strip()
    for _ in range(2):
        run("key", "revoke", key.split("_")[1])
    with_password(f"{PASSWORD}\n", "account", "create", "Kim", "--role", "operator")
    with_password("another long password\n", "account", "set-password", "kim")
    for command in (("disable",), ("enable",), ("set-role", "--role", "engineer")):
        assert run("account", command[0], "kim", *command[1:]).exit_code == 0
    lines = run("audit", "export", "--data", str(data)).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["action"] for entry in entries] == [
        "key:create", "key:revoke", "account:create", "account:password", "account:disable", "account:enable",
        "account:role",
    ]  # fmt: skip
    user, host = getpass.getuser(), socket.gethostname()
    for entry in entries:
        assert (entry["actor_kind"], entry["actor"]) == ("command-line", f"{user} (command line)")
        assert (entry["actor_id"], entry["address"]) == (f"{user}@{host}"[:64], host[:64])
    assert not any(secret in str(lines) for secret in (key, key.split("_")[2], PASSWORD, "argon2"))
    assert run("audit", "verify", "--data", str(data)).exit_code == 0


@pytest.mark.usefixtures("database")
def test_second_key_with_a_name_is_refused_and_unknown_products_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("PLUMBLINE_MODELS", str(tmp_path / "models"))
    command = ("key", "create", "cam 1", "--scope", "inspect", "--product", "wigdet")
    first = run(*command)
    assert first.exit_code == 0
    assert "has no product 'wigdet'" in " ".join(first.stderr.split())
    assert len(first.stdout.split()) == 1
    second = run(*command)
    assert second.exit_code == 1
    assert f"plumbline key revoke {first.stdout.split('_')[1]}" in " ".join(second.stderr.split())
    assert run("key", "revoke", "cam 1").exit_code == 0
    assert run(*command).exit_code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_accounts_are_listed_with_their_ids_which_commands_accept() -> None:
    with_password(f"{PASSWORD}\n", "account", "create", "kim", "--role", "operator")
    (listed,) = json.loads(run("account", "list", "--json").stdout)
    assert listed["id"][:8] in run("account", "list").stdout
    assert run("account", "disable", listed["id"]).exit_code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_last_administrator_is_not_disabled_without_an_admin_key() -> None:
    with_password(f"{PASSWORD}\n", "account", "create", "ada", "--role", "admin")
    for command in (("disable",), ("set-role", "--role", "operator")):
        refused = run("account", command[0], "ada", *command[1:])
        assert refused.exit_code == 1
        assert "last enabled one" in " ".join(refused.output.split())
    run("key", "create", "root", "--scope", "admin")
    assert run("account", "disable", "ada").exit_code == 0


@pytest.mark.parametrize(
    "command",
    [
        ("key", "list"),
        ("key", "list", "--json"),
        ("account", "list"),
        ("key", "create", "cam", "--scope", "inspect"),
        ("key", "revoke", "1d5be78afcc3778a"),
        ("account", "create", "kim", "--role", "admin"),
        ("account", "disable", "kim"),
        ("account", "enable", "kim"),
        ("account", "set-role", "kim", "--role", "admin"),
        ("account", "set-password", "kim"),
    ],
)
def test_folder_without_a_database_is_reported_and_nothing_is_created(data: Path, command: tuple[str, ...]) -> None:
    result = with_password(PASSWORD, *command)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"There is no database in {data}" in result.stderr
    assert not data.exists()


def test_first_account_creates_the_database_only_if_that_is_requested(data: Path) -> None:
    result = with_password(PASSWORD, "account", "create", "kim", "--role", "admin", "--create-database")
    assert result.exit_code == 0, result.output
    assert (data / "plumbline.db").is_file()


def test_creating_names_the_database_that_was_changed(database: Path) -> None:
    key = run("key", "create", "cam", "--scope", "inspect")
    account = with_password(PASSWORD, "account", "create", "kim", "--role", "admin")
    for result in (key, account):
        assert f"Database: sqlite:///{database}" in result.stderr


@pytest.mark.usefixtures("database")
def test_taken_name_is_reported_without_a_log_line() -> None:
    command = ("account", "create", "kim", "--role", "admin")
    with_password(PASSWORD, *command)
    result = with_password(PASSWORD, *command)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "kim" in result.stderr
    assert "IntegrityError" not in result.output


def test_logs_of_commands_are_written_to_standard_error(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasons, "_last_logged", {})
    database.write_bytes(b"not a database, but long enough to have a header" * 100)
    result = run("key", "list", "--json")
    assert result.exit_code == 1
    assert result.stdout == "", "standard output is for JSON"
    assert "database failure" in result.stderr


@pytest.mark.slow
def test_missing_key_names_the_options_of_the_command(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("PLUMBLINE_API_KEY", raising=False)
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "a.png").write_bytes(GOOD)
    run("key", "create", "cam", "--scope", "inspect", "--create-database")
    with serve() as service:
        url = ("--url", f"http://127.0.0.1:{service.port}")
        results = [
            run("recipe", "show", "widget", *url),
            run("watch", tmp_path / "drop", "--product", "widget", "--once", "--settle", "0", *url),
        ]
    for result in results:
        assert result.exit_code == 1
        assert "PLUMBLINE_API_KEY" in result.stderr
        assert "--api-key" in result.stderr
    assert "No images" not in results[1].stderr, "an image was found"
    assert "stay in the folder" in results[1].stderr


@pytest.mark.usefixtures("database")
def test_tables_have_whole_ids_and_times_with_a_zone() -> None:
    name = "camera at the end of the second line, with a long name"
    key = run("key", "create", name, "--scope", "inspect,review", "--days", "30").stdout.split("_")[1]
    run("key", "revoke", key)
    listed = run("key", "list").stdout
    assert any(line.startswith(key) for line in listed.splitlines())
    assert max(map(len, listed.splitlines())) <= 80
    assert "UTC" in listed
    assert utc(datetime(2026, 1, 31, 14, 5, tzinfo=timezone(timedelta(hours=1)))) == "2026-01-31 13:05 UTC"
