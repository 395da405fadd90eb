"""The client as a distribution of its own: small, light to import, and generated from its sources."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import generate

ROOT = Path(__file__).parents[2]
HEAVY = {"sqlalchemy", "onnx", "cv2", "onnxruntime", "numpy", "fastapi", "websockets", "service", "training"}


def project(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    return found


CLIENT = project(ROOT / "client" / "pyproject.toml")
SERVICE = project(ROOT / "pyproject.toml")


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in requirements]


def test_what_is_committed_is_what_is_generated() -> None:
    files = generate.generated()
    assert generate.committed() == files.keys(), "run client/generate.py"
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is out of date: run client/generate.py"


def test_import_of_the_client_loads_nothing_heavy() -> None:
    code = "import json, sys, plumbline_client; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "client", capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {"plumbline_client", "httpx", "pydantic"} <= loaded
    assert not loaded & HEAVY


def test_client_depends_on_httpx_and_pydantic_only() -> None:
    assert names(CLIENT["project"]["dependencies"]) == ["httpx", "pydantic"]
    extras = CLIENT["project"]["optional-dependencies"]
    assert {extra: names(lines) for extra, lines in extras.items()} == {"numpy": ["numpy"], "stream": ["websockets"]}
    assert CLIENT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["plumbline_client"]


def test_service_and_client_have_one_version() -> None:
    version = SERVICE["project"]["version"]
    assert CLIENT["project"]["version"] == version
    assert f"plumbline-client=={version}" in SERVICE["project"]["dependencies"]
    assert "plumbline" not in (ROOT / "constraints.txt").read_text(encoding="utf-8").replace("make constraints", "")


def test_make_and_the_image_install_the_client_from_this_repository() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (pip,) = re.findall(r"(?m)^PIP := (.*)$", makefile)
    assert "--editable ./client" in pip
    assert "--wheel-dir /wheels ./client ." in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    script = ROOT / "deploy" / "docker" / "dependencies.py"
    done = subprocess.run([sys.executable, script, "cpu"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "plumbline" not in done.stdout
    assert "fastapi" in done.stdout
