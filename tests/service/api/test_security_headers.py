"""Headers that every response has, and texts of the server that no response has."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url
from structlog.testing import capture_logs

from service.api.http.security_headers import SECURITY_HEADERS
from service.api.http.server_paths import SERVER_PATHS, ServerPaths, hide_paths, hide_paths_in
from service.settings import Settings
from service.store.database import name_of
from tests.postgres import PostgresServer
from tests.running_service import HttpService, RunningService, run_service


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/products",
        "/v1/products/ghost",
        "/nowhere",
        pytest.param("/metrics", marks=pytest.mark.per_replica),
        "/health/live",
        "/docs",
        "/docs/assets/problems.css",
        "/openapi.json",
        "/problems",
        "/favicon.ico",
    ],
)
def test_every_response_has_security_headers(service: HttpService, path: str) -> None:
    headers = service.client.get(path).headers
    assert all(name in headers for name in SECURITY_HEADERS)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


@pytest.mark.own_server
@pytest.mark.parametrize("path", ["/", "/v1/products/ghost", "/nowhere", "/health/live"])
def test_no_response_names_the_program_of_the_server(service: HttpService, path: str) -> None:
    assert "server" not in service.client.get(path).headers


@pytest.mark.parametrize(
    "request_bytes", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET  /\x00 HTTP/1.1\r\n\r\n"]
)
def test_malformed_request_gets_a_problem_with_security_headers(service: RunningService, request_bytes: bytes) -> None:
    with service.connect() as connection:
        connection.sendall(request_bytes)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["type"] == "/problems#malformed-request"
    for name in SECURITY_HEADERS:
        assert f"\r\n{name.lower()}: ".encode() in head


def test_refused_handshake_quotes_nothing_and_has_security_headers(service: RunningService) -> None:
    with service.connect() as connection:
        connection.sendall(
            b"GET /v1/products/widget/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: <evil>\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"evil" not in received
    assert json.loads(body)["type"] == "/problems#malformed-request"
    assert b"nosniff" in head


def test_no_response_names_a_folder_of_the_server(tiny_models: Path, tmp_path: Path) -> None:
    models = tmp_path / "secret-models"
    shutil.copytree(tiny_models, models)
    broken = models / "broken"
    shutil.copytree(models / "widget", broken)
    (version,) = broken.iterdir()
    (version / "model.onnx").write_bytes(b"no graph")
    data = tmp_path / "secret-data"
    with run_service(models, data) as service:
        client = service.client
        texts = [
            client.get(path).text
            for path in (
                "/health/ready",
                "/v1/products",
                "/v1/products/broken",
                "/v1/products/broken/bundles",
                "/v1/products/ghost",
                "/v1/products/widget/bundles/000000000000",
                "/v1/inspections/0192f7a0-0000-7000-8000-000000000000/image",
                "/metrics",
                "/openapi.json",
            )
        ]
        texts += [
            client.post(path, content=b"PK", headers={"content-type": "application/zip"}).text
            for path in ("/v1/products/widget/bundles", "/v1/products/broken/bundles")
        ]
        inspection = service.inspect().json()["id"]
        shutil.rmtree(data / "inspections")
        texts += [client.get(f"/v1/inspections/{inspection}/image").text, service.inspect().text]
    assert "broken" in texts[0]
    for text in texts:
        assert str(tmp_path) not in text
        assert "/home/" not in text
        assert "site-packages" not in text


def test_paths_are_replaced_by_names(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path / "models", data=tmp_path / "models-data")
    token = SERVER_PATHS.set(ServerPaths(settings))
    try:
        assert (
            hide_paths(f"in {tmp_path}/models/a and {tmp_path}/models-data.")
            == "in $PLUMBLINE_MODELS/a and $PLUMBLINE_DATA."
        )
        assert hide_paths("GET /v1/products lists them") == "GET /v1/products lists them"
        assert hide_paths_in({"a": [f"{tmp_path}/models", 1, None]}) == {"a": ["$PLUMBLINE_MODELS", 1, None]}
    finally:
        SERVER_PATHS.reset(token)
    assert hide_paths("/anything") == "/anything"


def test_folders_of_the_container_image_do_not_garble_urls() -> None:
    settings = Settings(models=Path("/models"), data=Path("/data"), artefacts_url="file:///mnt/archive/line%201")
    token = SERVER_PATHS.set(ServerPaths(settings))
    try:
        for text in ("GET /v2/models/MODEL describes it", "https://host/data", "urn:x:/data", "see docs/data/x"):
            assert hide_paths(text) == text
        assert (
            hide_paths("/models/widget is broken (/data/x)") == "$PLUMBLINE_MODELS/widget is broken ($PLUMBLINE_DATA/x)"
        )
        assert hide_paths("'/mnt/archive/line 1' cannot be written") == "'$PLUMBLINE_ARTEFACTS_URL' cannot be written"
    finally:
        SERVER_PATHS.reset(token)


@pytest.mark.parametrize("host", ["db.plant.example:5433", "[::1]", ""])
def test_address_of_the_database_is_replaced(tmp_path: Path, host: str) -> None:
    url = f"postgresql+psycopg://quality:secret@{host}/washer-db"
    paths = ServerPaths(Settings(models=tmp_path / "models", data=tmp_path / "data", database_url=url))
    name = name_of(make_url(url))
    assert "quality" in name
    assert paths.hide(f"The database {name} is read-only.") == "The PostgreSQL database is read-only."
    hidden = paths.hide(f"It failed: the database {name} cannot be opened; {name}, and {tmp_path}/data/x.")
    assert (
        hidden == "It failed: the PostgreSQL database cannot be opened; the PostgreSQL database, and $PLUMBLINE_DATA/x."
    )


@pytest.mark.slow
def test_clients_do_not_see_the_address_of_the_database(
    postgres: PostgresServer, postgres_url: str, tiny_models: Path, tmp_path: Path
) -> None:
    name = postgres_url.rpartition("/")[2]
    with capture_logs() as log, run_service(tiny_models, tmp_path / "data", database_url=postgres_url) as service:
        postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        service.store.engine.dispose()
        service.runtime.store_health.report_failure()
        deadline = time.monotonic() + 10
        while (response := service.client.get("/health/ready")).status_code != 503:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "The PostgreSQL database is read-only" in " ".join(response.json()["reasons"])
        refused = [response, service.inspect(), service.client.put("/v1/products/widget/recipe", json={"reason": "x"})]
        refused += [service.client.get(path) for path in ("/v2/health/ready", "/metrics", "/", "/v2", "/problems")]
        for one in refused:
            assert not any(word in one.text for word in (name, f"127.0.0.1:{postgres.port}", "plumbline@")), one.text
    assert any(f"plumbline@127.0.0.1:{postgres.port}/{name}" in str(entry) for entry in log), "for the operator"
