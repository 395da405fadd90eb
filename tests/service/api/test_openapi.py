"""The committed OpenAPI document matches the application and is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.api.http.aws_errors import AWS_PREFIX
from service.api.http.problems import catalogue
from service.app import create_app
from service.settings import Settings

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
