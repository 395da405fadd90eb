"""The committed OpenAPI document matches the application and is complete."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from service.api.http.aws_errors import AWS_PREFIX
from service.api.http.problems import catalogue
from service.app import create_app
from service.settings import Settings
from tests.running_service import Serve

COMMITTED = Path(__file__).parents[3] / "openapi.json"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("openapi")
    return create_app(Settings(models=folder / "models", data=folder / "data")).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_committed_document_matches_the_application(document: dict[str, Any]) -> None:
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert document == committed, "run `plumbline openapi > openapi.json` and commit the change"


def test_every_operation_is_named_and_described_and_declares_its_problems(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for where, operation in operations(document):
        assert operation["summary"], where
        assert operation["description"], where
        assert "500" in operation["responses"], where
        for status, response in operation["responses"].items():
            if int(status) >= 400 and not (where == "get /health/ready" and status == "503"):
                form = "application/json" if " /v2" in where or AWS_PREFIX in where else "application/problem+json"
                assert list(response["content"]) == [form], (where, status)
        if AWS_PREFIX in where:
            assert operation["responses"].keys() >= {"400", "403", "404", "408", "429", "500", "503"}
            assert "422" not in operation["responses"]
        elif operation.get("parameters"):
            assert "422" in operation["responses"], where


def test_binary_bodies_and_responses_are_declared(document: dict[str, Any]) -> None:
    inspect = document["paths"]["/v1/products/{product}/inspections"]["post"]
    assert set(inspect["requestBody"]["content"]) == {
        "image/jpeg",
        "image/png",
        "image/bmp",
        "image/webp",
        "image/tiff",
        "application/octet-stream",
        "multipart/form-data",
    }
    assert set(inspect["responses"]["201"]["content"]) == {"application/json", "image/png", "image/jpeg", "image/webp"}
    assert "X-Plumbline-Decision" in inspect["responses"]["201"]["headers"]
    assert {"404", "406", "408", "413", "415", "422", "503"} <= set(inspect["responses"])
    assert "Retry-After" in inspect["responses"]["503"]["headers"]
    heatmap = document["paths"]["/v1/inspections/{inspection_id}/heatmap"]["get"]["responses"]["200"]
    assert set(heatmap["content"]) == {"image/png", "image/jpeg", "image/webp"}


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for name in {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name


def test_every_problem_is_declared_by_an_operation(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    # These are responses to paths, methods and handshakes that an OpenAPI document does not describe.
    for slug in catalogue().keys() - {"not-found", "method-not-allowed", "too-many-streams", "stream-idle"}:
        assert f"`{slug}`" in text, slug


def test_no_text_of_a_request_may_contain_control_characters(document: dict[str, Any]) -> None:
    """PostgreSQL cannot store NUL, and the others would end up in logs and headers."""
    texts = [
        (f"{where} {parameter['name']}", parameter["schema"])
        for where, operation in operations(document)
        for parameter in operation.get("parameters", [])
    ]
    texts += [
        (where, content["schema"])
        for where, operation in operations(document)
        for form, content in operation.get("requestBody", {}).get("content", {}).items()
        if form == "application/json"
    ]
    found = [text for where, schema in texts for text in texts_of(document, where, schema)]
    assert len(found) > 60
    for where, schema in found:
        for character in "\0\x01\x07\x7f":
            assert "pattern" in schema, where
            assert re.search(schema["pattern"], f"a{character}b") is None, where


# Its texts are compared or returned, and never stored.
NOT_STORED = {"InferRequest", "InferTensor", "InferOutput"}


def texts_of(document: dict[str, Any], where: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schemas of texts that may have any value, with the path to each."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in NOT_STORED:
            yield from texts_of(document, f"{where} {name}", document["components"]["schemas"][name])
    if schema.get("type") == "string" and not {"enum", "const", "format"} & schema.keys():
        yield where, schema
    for name, part in schema.get("properties", {}).items():
        yield from texts_of(document, f"{where}.{name}", part)
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ()), *items_of(schema)):
        yield from texts_of(document, where, part)


def items_of(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas of the items of a list, or of the values of a mapping."""
    parts = (schema.get("items"), schema.get("additionalProperties"), *schema.get("prefixItems", ()))
    return [part for part in parts if isinstance(part, dict)]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/openapi.json", 200), ("DELETE", "/v1/products", 405), ("POST", "/v1/training-jobs:claim", 422)],
    ids=["document", "method", "body"],
)
def test_document_is_not_made_on_the_event_loop(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, method: str, path: str, status: int
) -> None:
    threads: list[str] = []

    def make(app: FastAPI) -> dict[str, Any]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            threads.append("worker")
        else:
            threads.append("event loop" if not app.state.is_described else "made already")
        return {"openapi": "3.1.0", "paths": {}}

    monkeypatch.setattr(FastAPI, "openapi", make)
    with serve() as service:
        assert service.client.request(method, path, json={"speed": 1}).status_code == status
    assert threads[0] == "worker"
    assert "event loop" not in threads


def test_document_is_made_once_by_concurrent_requests(tmp_path: Path) -> None:
    app = create_app(Settings(models=tmp_path / "models", data=tmp_path / "data"))
    together = threading.Barrier(4)

    def read() -> int:
        together.wait()
        return id(app.openapi()) if "Problem" in app.openapi()["components"]["schemas"] else 0

    with ThreadPoolExecutor(4) as pool:
        found = {future.result() for future in [pool.submit(read) for _ in range(4)]}
    assert len(found) == 1
    assert 0 not in found
