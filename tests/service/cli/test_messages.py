"""Messages are our own: no text of a library reaches a user."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from service.cli.offline import InvalidTime, parse_time
from service.recipes.errors import InvalidRecipe
from service.recipes.toml_file import read_toml
from service.store.reasons import reason_of
from tests.command_line import run
from tests.library_texts import assert_own
from tests.running_service import GOOD, INSPECT, Serve


@pytest.mark.slow
@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "2026-01-01T25:00", "", "01/02/2026", "0001-01-01"])
def test_time_that_is_not_iso_8601_is_explained(since: str, tiny_models: Path, tmp_path: Path, serve: Serve) -> None:
    with serve() as service:
        data = service.settings.data
    result = run("replay", "--product", "widget", "--since", since, "--models", tiny_models, "--data", data)

    if since == "0001-01-01" and result.exit_code != 2:
        return  # the system can convert this year
    assert result.exit_code == 2
    assert "not a time in ISO 8601, for example 2026-01-31" in result.stderr or since == ""
    assert_own(result.stderr)


def test_times_with_and_without_a_zone_are_accepted() -> None:
    assert parse_time("2026-01-31T14:30+01:00").utcoffset() is not None
    assert parse_time("2026-01-31").tzinfo is not None
    with pytest.raises(InvalidTime, match="'soon'"):
        parse_time("soon")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff\xfe", "not a text file in UTF-8"), (None, "No such file or directory")],
)
def test_recipe_file_that_cannot_be_read_is_explained(content: bytes | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    if content is not None:
        file.write_bytes(content)

    result = run("recipe", "import", "widget", file, "--reason", "dust")

    assert result.exit_code == 1
    assert reason in result.stderr
    assert_own(result.stderr)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"author = \n", "line 1, column 10"),
        (b"[recipe\n", "line 1, column 8"),
        (b"a = 1\nb = \xff", "byte 11 is not UTF-8"),
        (b'a = "', "ends too early"),
    ],
)
def test_place_of_an_error_in_a_toml_file_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        read_toml(content)

    assert reason in caught.value.detail
    assert_own(caught.value.detail)


def test_unreachable_service_is_explained() -> None:
    result = run("recipe", "show", "widget", "--url", "http://127.0.0.1:9")

    assert result.exit_code == 1
    assert "the connection was refused" in result.stderr
    assert_own(result.stderr)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_BUSY, "locked by another process"),
        (sqlite3.SQLITE_FULL, "disk is full"),
        (sqlite3.SQLITE_IOERR | (10 << 8), "disk reports an error"),
        (sqlite3.SQLITE_NOTADB, "not a SQLite database"),
    ],
)
def test_database_failures_are_explained(code: int, reason: str) -> None:
    original = sqlite3.OperationalError("text of the library")
    original.sqlite_errorcode = code

    explained = reason_of(OperationalError("INSERT", {}, original))

    assert reason in explained
    assert "text of the library" not in explained


def test_file_that_is_no_database_is_explained(tiny_models: Path, tmp_path: Path) -> None:
    (tmp_path / "plumbline.db").write_text("this is not a database " * 100)

    result = run("replay", "--product", "widget", "--models", tiny_models, "--data", tmp_path)

    assert result.exit_code == 2
    assert "the file is not a SQLite database" in result.stderr
    assert_own(result.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"this is not a database " * 100, b"SQLite format 3\0" + bytes(range(256)) * 64])
@pytest.mark.parametrize("command", ["products", "replay", "inspect", "doctor"])
def test_damaged_database_advises_a_backup(command: str, content: bytes, tiny_models: Path, tmp_path: Path) -> None:
    image = tmp_path / "part.png"
    image.write_bytes(GOOD)
    (tmp_path / "plumbline.db").write_bytes(content)
    arguments = {
        "products": (),
        "replay": ("--product", "widget"),
        "inspect": (image, "--product", "widget", "--provider", "cpu"),
        "doctor": ("--port", "0", "--provider", "cpu"),
    }[command]

    result = run(command, *arguments, "--models", tiny_models, "--data", tmp_path)

    output = " ".join(result.output.split())
    assert result.exit_code != 0
    assert "restore a backup of the database" in output
    assert "image again" not in output
    # `doctor` begins with the versions of the libraries.
    assert_own(output[output.index("problem database") :] if command == "doctor" else output)


def test_missing_database_is_named_with_what_to_give(tiny_models: Path, tmp_path: Path) -> None:
    result = run("replay", "--product", "widget", "--models", tiny_models, "--data", tmp_path / "nope")

    output = " ".join(result.stderr.split())
    assert result.exit_code == 2
    assert f"there is no database {tmp_path / 'nope' / 'plumbline.db'}" in output
    assert "--data or PLUMBLINE_DATA" in output
    assert "image again" not in output


def test_malformed_form_is_explained(serve: Serve) -> None:
    with serve() as service:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        response = service.client.post(INSPECT, content=b"--y\r\nno form", headers=headers)

    assert response.status_code == 422
    assert_own(response.json()["detail"])


@pytest.mark.slow
def test_replay_of_an_unknown_product_names_the_folder_that_was_searched(tiny_models: Path, serve: Serve) -> None:
    with serve() as service:
        data = service.settings.data
    result = run("replay", "--product", "ghost", "--models", tiny_models, "--data", data, "--provider", "cpu")

    assert result.exit_code == 2
    assert f"no product 'ghost' in the model repository {tiny_models}" in result.stderr


def test_unknown_product_names_the_folder_that_was_searched(tiny_models: Path, tmp_path: Path) -> None:
    result = run("inspect", tmp_path, "--product", "ghost", "--models", tiny_models, "--data", tmp_path / "data")

    assert result.exit_code == 2
    assert str(tiny_models) in result.stderr.replace("\n", "")
