"""The examples of clients work as they are printed, and name what the service offers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.docs.blocks import ROOT, URL_IN_DOCUMENTS, Block, blocks_of, run
from tests.docs.test_commands import OPENAPI, compile_csharp, needs_curl, schema_of
from tests.serving import service_process

CLIENTS = ROOT / "docs" / "how-to" / "clients.md"
LOOKOUT = ROOT / "docs" / "how-to" / "lookout-for-vision.md"
WATCH = ROOT / "docs" / "how-to" / "folder-watch.md"
OPERATION = OPENAPI["paths"]["/v1/products/{product}/inspections"]["post"]


def block_in(language: str) -> Block:
    (found,) = [block for block in blocks_of(CLIENTS) if block.language == language]
    return found


@needs_curl
@pytest.mark.slow
def test_the_examples_run_against_a_service(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "washer", tmp_path / "models" / "washer")
    shutil.copytree(ROOT / "docs" / "samples", tmp_path / "docs" / "samples")
    with service_process(tmp_path / "models", tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        created = httpx.post(f"{service.url}/v1/access/keys", json={"name": "line", "scopes": ["inspect"]})
        (tmp_path / "plumbline.key").write_text(f"{created.json()['key']}\n", encoding="utf-8")
        blocks = [block for path in (CLIENTS, LOOKOUT) for block in blocks_of(path)]
        outputs = [
            run(block, tmp_path, service.url)
            for block in blocks
            if block.language in {"bash", "python"} and block.reason is None
        ]
        if pwsh := shutil.which("pwsh"):
            text = block_in("powershell").text.replace(URL_IN_DOCUMENTS, service.url)
            done = subprocess.run([pwsh, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.stdout.startswith("fail "), done.stderr

    inspection = json.loads(outputs[0])
    assert (inspection["decision"], inspection["part_id"], inspection["station"]) == ("fail", "4711", "A2")
    assert "fail" in outputs[1].lower()
    assert (tmp_path / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    assert inspection["id"] in (tmp_path / "headers.txt").read_text(encoding="utf-8")  # the same key, so the same one
    assert outputs[2].startswith("fail ")
    assert outputs[3] == "fail\n"
    assert json.loads(outputs[4])["DetectAnomalyResult"]["IsAnomalous"] is True


@pytest.mark.parametrize("language", ["bash", "powershell", "csharp", "python", "LabVIEW"])
def test_every_example_sends_a_key_and_an_idempotency_key(language: str) -> None:
    text = CLIENTS.read_text(encoding="utf-8")
    texts = [block.text for block in blocks_of(CLIENTS) if block.language == language]
    texts = texts or [text.partition(f"## {language}\n")[2].partition("\n## ")[0]]
    for found in texts:
        assert re.search(r"X-API-Key|api_key=", found)
        assert re.search(r"Idempotency-Key|idempotency_key=", found)


@pytest.mark.parametrize("language", ["powershell", "csharp"])
def test_the_example_uses_what_the_service_offers(language: str, tmp_path: Path) -> None:
    text = block_in(language).text
    parameters = {item["name"].lower() for item in OPERATION["parameters"]}
    fields = schema_of(OPERATION["responses"]["201"]["content"]["application/json"]["schema"])["properties"]
    (query,) = re.findall(r"/inspections\?([^'\"]+)['\"]", text)
    named = re.findall(r'RootElement\.GetProperty\("([^"]+)"\)|\$inspection\.(\w+)', text)

    assert "/v1/products/" in text
    assert {pair.partition("=")[0] for pair in query.split("&")} <= parameters
    assert "idempotency-key" in parameters
    assert "image/jpeg" in OPERATION["requestBody"]["content"]
    assert named
    assert {name for pair in named for name in pair if name} <= set(fields)
    assert all((ROOT / name).is_file() for name in re.findall(r"docs/samples/[\w.-]+", text))
    if language == "csharp" and (dotnet := shutil.which("dotnet")):
        compile_csharp(dotnet, text, tmp_path)


@pytest.mark.parametrize("path", [CLIENTS, LOOKOUT, WATCH], ids=lambda path: path.name)
def test_blocks_run_or_say_why_not(path: Path) -> None:
    for block in blocks_of(path):
        assert block.language in {"bash", "python", "csharp", "powershell"}, block.place
        assert block.reason is None or len(block.reason.split()) >= 5
        named = re.findall(r"\btests/[\w/]+\.py\b", block.reason or "")
        assert all((ROOT / name).is_file() for name in named)
