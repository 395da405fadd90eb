"""Attacks with the content of requests: bombs, markup, control characters, file names."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.monitoring.logs import configure_logging
from service.recipes.errors import InvalidRecipe
from service.recipes.toml_file import _require_short_keys, read_toml
from service.settings import Settings
from tests.access import problem_of
from tests.running_service import GOOD, INSPECT
from tests.service.security.conftest import PNG, Target

RECIPE = "/v1/products/widget/recipe"
JSON_ENDPOINTS = {
    "recipe": ("PUT", RECIPE, "engineer"),
    "key": ("POST", "/v1/access/keys", "admin"),
    "log-in": ("POST", "/v1/access/login", "admin"),
    "proposal": ("POST", "/v1/products/widget/thresholds:propose", "engineer"),
    "open inference": ("POST", "/v2/models/widget/infer", "inspect"),
}
JSON_BOMBS = {
    "deep list": b"[" * 60_000,
    "deep object": b'{"a":' * 20_000,
    "balanced": b"[" * 30_000 + b"]" * 30_000,
    "huge integer": b'{"revision":' + b"9" * 50_000 + b"}",
    "not a number": b'{"fail_threshold":NaN}',
    "infinity": b'{"fail_threshold":1e999}',
    "repeated name": b'{"author":"a","author":"b","thresholds":1}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "surrogate": b'{"author":"\\ud800"}',
    "NUL": b'{"author":"a\\u0000b"}',
    "not UTF-8": b'{"author":"\xff"}',
}


@pytest.mark.parametrize("bomb", JSON_BOMBS)
@pytest.mark.parametrize("endpoint", JSON_ENDPOINTS)
def test_json_bomb_is_refused(target: Target, endpoint: str, bomb: str) -> None:
    method, path, key = JSON_ENDPOINTS[endpoint]
    headers = target.keys[key] | {"content-type": "application/json"}
    response = target.client.request(method, path, content=JSON_BOMBS[bomb], headers=headers)
    assert response.status_code in {400, 422}


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 50_000,
        "a=" + "{b=" * 20_000,
        "a." * 20_000 + "a=1",
        '"a" . ' * 20_000 + "a=1",
        "[" + "a." * 20_000 + "a]",
        "a=" + "9" * 10_000,
        "a=1" + "_1" * 5000,
        "a=0x" + "f" * 30_000,
        "a=9999-99-99",
        "a='\xff'",
        "a='\x00'",
        'a="' + '\\"' * 100_000,
        '"' * 100_000,
        "a " * 100_000,
    ],
)
def test_toml_bomb_is_refused_at_once(text: str) -> None:
    used = time.process_time()
    with pytest.raises(InvalidRecipe):
        read_toml(text.encode())
    assert time.process_time() - used < 2.0, "the time must not grow with the square of the length"


@pytest.mark.parametrize(
    "text",
    [
        'author="' + "a." * 100 + '"',
        "# " + "a." * 100 + "\n",
        "reason='''" + "a." * 100 + "\n'''",
        'reason="""' + 'a."b"' * 40 + '"""',
        '"' + "a." * 100 + '"=1\n',
    ],
)
def test_dots_in_texts_are_no_nesting(text: str) -> None:
    _require_short_keys(text)


def test_toml_bomb_over_http_is_a_problem(target: Target) -> None:
    headers = target.keys["engineer"] | {"content-type": "application/toml"}
    for content in (b"a=" + b"9" * 10_000, b"a." * 50_000 + b"a=1"):
        assert problem_of(target.client.put(RECIPE, content=content, headers=headers)) == (422, "invalid-recipe")


@pytest.mark.parametrize(
    "tensor",
    [
        {"shape": [2**62], "datatype": "BYTES", "data": []},
        {"shape": [-1], "datatype": "BYTES", "data": ["x"]},
        {"shape": [2**40, 2**40], "datatype": "UINT8", "data": [1]},
        {"shape": [1] * 10_000, "datatype": "UINT8", "data": [1]},
        {"shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 2**70}},
        {"shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": -1}},
    ],
)
def test_tensor_with_a_false_size_is_refused(target: Target, tensor: dict[str, object]) -> None:
    body = {"inputs": [{"name": "image"} | tensor]}
    assert target.client.post("/v2/models/widget/infer", json=body, headers=target.keys["inspect"]).status_code == 400


@pytest.mark.parametrize("length", ["-1", "99999999999999999999", "1e3", "0x10", "+5", "\uff15"])
def test_false_length_of_the_inference_header_is_refused(target: Target, length: str) -> None:
    headers: Any = target.keys["inspect"] | {"inference-header-content-length": length.encode()}
    assert target.client.post("/v2/models/widget/infer", content=b"{}", headers=headers).status_code == 400


@pytest.mark.parametrize(
    "header",
    [
        {"range": "bytes=" + ",".join(["0-"] * 3000)},
        {"range": "bytes=-99999999999999999999"},
        {"accept": "image/png;q=" + "1" * 20_000},
        {"accept": "a/" * 9000},
        {"if-match": "9" * 20_000},
    ],
)
def test_header_of_extreme_size_is_handled(target: Target, header: dict[str, str]) -> None:
    for path in (RECIPE, f"/v1/inspections/{target.foreign}/image"):
        response = target.client.get(path, headers=target.keys["inspect"] | header)
        assert response.status_code in {200, 206, 406, 416, 422}
        assert len(response.content) < 100_000


@pytest.mark.parametrize(
    "part_id", ["a\r\nX-Injected: 1", "\x1b[31m", "a\x00b", "\x85", "\x9b2J", "a\u202eb", "\u2066b"]
)
def test_control_characters_reach_neither_headers_nor_records(target: Target, part_id: str) -> None:
    headers = target.keys["inspect"] | PNG | {"accept": "image/png"}
    response = target.client.post(INSPECT, content=GOOD, headers=headers, params={"part_id": part_id})
    assert problem_of(response) == (422, "invalid-request")
    assert "x-injected" not in response.headers


@pytest.mark.parametrize("name", ["x-request-id", "traceparent"])
@pytest.mark.parametrize("value", ["a b\x07", "a\tb", "\xe9" * 200, "a" * 5000, "${jndi:ldap://evil.example}", "<x>"])
def test_unsafe_id_of_a_request_is_replaced(target: Target, name: str, value: str) -> None:
    headers: Any = {name: value.encode("latin-1")}
    response = target.client.get("/health/live", headers=headers)
    assert value not in response.headers.values()


def test_markup_is_returned_as_json_only(target: Target) -> None:
    script = "<script>alert(1)</script>"
    headers = target.keys["inspect"] | PNG
    sent = target.client.post(INSPECT, content=GOOD, headers=headers, params={"lot": script, "part_id": script})
    read = target.client.get(f"/v1/inspections/{sent.json()['id']}", headers=target.keys["inspect"])
    missing = target.client.get(f"/{script}")
    for response in (sent, read, missing):
        assert response.headers["content-type"].startswith("application/")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
    page = target.client.get("/docs")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]


def test_image_is_never_sent_as_a_page(target: Target) -> None:
    headers = target.keys["inspect"] | {"content-type": "text/html"}
    response = target.client.post(INSPECT, content=b"<html><script>alert(1)</script>", headers=headers)
    assert response.status_code in {415, 422}
    svg = target.client.post(INSPECT, content=b"<svg/>", headers=target.keys["inspect"] | {"content-type": "image/png"})
    assert svg.status_code in {415, 422}
    stored = target.client.get(f"/v1/inspections/{target.foreign}/image", headers=target.keys["inspect"])
    assert stored.headers["content-type"] == "image/png"
    assert stored.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["../../../../tmp/evil.png", "/etc/cron.d/evil", "a\x1b]0;x\x07.png", "C:\\evil.png"])
def test_file_name_is_a_label_only(target: Target, name: str) -> None:
    data = target.service.settings.data
    body = (
        f'--B\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        + GOOD
        + b"\r\n--B--\r\n"
    )
    headers = target.keys["inspect"] | {"content-type": "multipart/form-data; boundary=B"}
    response = target.client.post(f"{INSPECT}:batch", content=body, headers=headers)
    assert response.status_code == 200
    assert "\x1b" not in response.json()["items"][0]["name"]
    assert not list(data.parent.rglob("*evil*"))


def test_console_log_contains_no_escape_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    before, level, configuration = root.handlers, root.level, structlog.get_config()
    try:
        configure_logging(Settings(models=tmp_path / "models", data=tmp_path / "data", log_format="console"))
        structlog.get_logger("test").info("refused", path="/\x1b[31m", reason="a\r\nfake\x9b2J", bidi="\u202eabc")
        logging.getLogger("uvicorn").info("message %s", "\x1b[31m\nfake")
    finally:
        root.handlers = before
        root.setLevel(level)
        structlog.configure(**configuration)
    written = stream.getvalue()
    assert written.count("\n") == 2, "one line per message"
    assert not [char for char in written if not char.isprintable() and char != "\n"]
    assert "\\x1b[31m" in written
