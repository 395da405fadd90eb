"""Requests generated from the OpenAPI document against a real process: no server error, nothing undocumented."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.access.principal import SCOPES
from tests.bundles import write_tiny_bundle
from tests.serving import service_process

pytestmark = pytest.mark.slow

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
    "unsupported_method",
)


def test_every_response_to_generated_requests_is_documented_and_no_server_error(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_bundle(models)
    with service_process(models, tmp_path / "data") as service:
        service.wait_until(200)
        # Generated requests create keys, too, and from the first key on every request needs one.
        key = httpx.post(f"{service.url}/v1/access/keys", json={"name": "root", "scopes": list(SCOPES)}).json()["key"]
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "2", "--workers", "1", "--seed", "1", "--no-color"),
            *("--request-timeout", "120"),  # a report of months takes seconds, and more on a busy machine
            *("--exclude-operation-id", "follow_inspections"),  # its response has no end
            *("--header", f"X-API-Key: {key}"),
        ]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=540)
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
        assert service.terminate() == 0
