"""Secrets and internals in files, processes, logs, metrics and responses."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from structlog.testing import capture_logs

from service.cli.main import app
from service.store.permissions import make_private
from service.store.store import Store
from tests.access import PASSWORD
from tests.running_service import GOOD, INSPECT
from tests.service.security.conftest import PNG, Target


def others(folder: Path) -> Iterator[Path]:
    """Yield what other users may read, write or enter."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink() and path.stat().st_mode & stat.S_IRWXO:
            yield path


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_other_users_can_neither_read_nor_enter_the_data_folder(tmp_path: Path, usual_umask: None) -> None:
    data = tmp_path / "data"
    Store.open(f"sqlite:///{data}/plumbline.db", data).close()
    assert list(others(data)) == []


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_existing_database_is_closed_to_other_users(tmp_path: Path, usual_umask: None) -> None:
    path = tmp_path / "plumbline.db"
    sqlite3.connect(path).close()
    path.touch()
    path.chmod(0o664)
    make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_images_and_maps_are_closed_to_other_users(target: Target) -> None:
    data = target.service.settings.data
    assert target.client.post(INSPECT, content=GOOD, headers=target.keys["inspect"] | PNG).status_code == 201
    files = [path for path in (data / "inspections").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.stat().st_mode & stat.S_IRWXO]


def test_database_contains_no_secret(target: Target) -> None:
    login = target.client.post("/v1/access/login", json={"name": "kim", "password": PASSWORD})
    secrets = [target.client.cookies["plumbline"], login.json()["csrf_token"], PASSWORD]
    secrets += [headers["authorization"].rpartition("_")[2] for headers in target.keys.values()]
    data = target.service.settings.data
    content = b"".join(path.read_bytes() for path in data.glob("plumbline.db*"))
    assert b"$argon2id$" in content
    assert not [secret for secret in secrets if secret.encode() in content]


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "kim", "password": ["hunter2-secret"]}',
        b'{"name": "kim", "password": "hunter2-secret", "passwort": "hunter2-secret"}',
        b'{"name": "kim", "password": "hunter2-secret"',
        b'{"name": {"hunter2-secret": 1}, "password": "hunter2-secret"}',
        b'{"name": "kim", "password": "hunter2-secret"}',
    ],
)
def test_password_is_neither_quoted_nor_logged(target: Target, body: bytes) -> None:
    with capture_logs() as logs:
        response = target.client.post(
            "/v1/access/login",
            content=body,
            headers={"content-type": "application/json", "x-forwarded-for": "10.5.5.5"},
        )
    assert response.status_code in {401, 422}
    assert "hunter2" not in response.text
    assert "hunter2" not in json.dumps(logs, default=str)


def test_key_is_neither_quoted_nor_logged(target: Target) -> None:
    secret = "f" * 64
    with capture_logs() as logs:
        texts = [
            target.client.get("/v1/products", headers={"authorization": f"Bearer plumb_{'0' * 16}_{secret}"}).text,
            target.client.get("/v1/products", headers={"x-api-key": f"x{secret}"}).text,
            target.client.get(f"/v1/products?key={secret}", headers=target.keys["inspect"]).text,
            target.client.get("/metrics", headers=target.keys["inspect"]).text,
            target.client.get("/openapi.json").text,
        ]
    assert secret not in json.dumps(logs, default=str)
    assert not [text for text in texts if secret in text]


@pytest.mark.parametrize(
    "path", ["/", "/health/live", "/health/ready", "/openapi.json", "/docs", "/problems", "/v1/ghost"]
)
def test_open_endpoint_names_neither_the_server_nor_its_libraries(target: Target, path: str) -> None:
    response = target.client.get(path)
    assert "server" not in response.headers
    assert "x-powered-by" not in response.headers
    for word in ("uvicorn", "starlette", "sqlalchemy", "Traceback", str(target.service.settings.data)):
        assert word not in response.text


def test_secrets_are_no_arguments_of_the_command_line() -> None:
    # Other users see the arguments of every process.
    def options(command: Any) -> Iterator[Any]:
        yield from (parameter for parameter in command.params if parameter.param_type_name == "option")
        for inner in getattr(command, "commands", {}).values():
            yield from options(inner)

    found = {option.opts[0]: option for option in options(typer.main.get_command(app))}
    secret = [name for name in found if re.search("password|secret|token|api-key", name)]
    assert "--api-key" in secret
    for name in secret:
        if not name.endswith("-file"):
            assert found[name].envvar
            assert "other users of the machine see" in " ".join(str(found[name].help).split())


def test_readiness_names_no_product_to_strangers(target: Target) -> None:
    remote = target.client.get("/health/ready", headers={"X-Forwarded-For": "10.1.2.3"})
    local = target.client.get("/health/ready")
    assert remote.status_code == local.status_code == 200
    assert (local.json()["products"], bool(local.json()["version"])) == (["gadget", "widget"], True)
    hidden = {name: value for name, value in remote.json().items() if value}
    assert hidden == {"status": "ready", "access": "required"}
