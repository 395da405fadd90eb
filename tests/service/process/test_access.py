"""The loopback rule and the first key, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.access import bearer
from tests.serving import ROOT, service_process

pytestmark = pytest.mark.slow

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what the rule is about


def plumbline(data: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}
    return subprocess.run(
        [sys.executable, "-m", "service.cli.main", *arguments],
        env=inherited | {"PLUMBLINE_DATA": str(data)} | {f"PLUMBLINE_{name}": text for name, text in settings.items()},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_network_is_refused_until_there_is_a_key(tiny_models: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    refused = plumbline(data, "serve", HOST=EVERYWHERE, PORT="0", MODELS=str(tiny_models))
    assert refused.returncode != 0
    for words in ("cannot start", "plumbline key create", "PLUMBLINE_INSECURE=1", EVERYWHERE):
        assert words in refused.stderr
    assert '"listening"' not in refused.stderr

    created = plumbline(data, "key", "create", "first", "--scope", "admin", "--scope", "inspect", "--create-database")
    key = created.stdout.strip()
    with service_process(tiny_models, data, {"host": EVERYWHERE}) as service:
        service.wait_until(200)
        assert httpx.get(f"{service.url}/v1/products").status_code == 401
        assert httpx.get(f"{service.url}/v1/products", headers=bearer(key)).status_code == 200
        second = plumbline(data, "key", "create", "second", "--scope", "inspect").stdout.strip()
        assert httpx.get(f"{service.url}/v1/products", headers=bearer(second)).status_code == 200
        assert httpx.get(f"{service.url}/metrics").status_code == 401
        assert service.terminate() == 0
