"""Twelve megapixels over HTTP against a real process: the defect is found, with less than a gigabyte of memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.bundle.manifest import InputGeometry, Tiling
from tests.bundles import CELL, SIZE, part, write_tiny_bundle
from tests.running_service import INSPECT, encode
from tests.serving import service_process

pytestmark = pytest.mark.slow

GIGABYTE = 10**9


def test_small_defect_in_a_large_image_is_found_within_a_gigabyte(tmp_path: Path) -> None:
    tiled = InputGeometry(height=SIZE, width=SIZE, tiling=Tiling(overlap=16))
    write_tiny_bundle(tmp_path / "models", input=tiled)
    noise = np.random.default_rng(3).integers(0, 12, (3000, 4096, 3), np.uint8)
    data = encode(part(width=4096, height=3000, spot=(3011, 1703, 24), brightness=122) + np.minimum(noise, 133))
    with service_process(tmp_path / "models", tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        response = httpx.post(service.url + INSPECT, content=data, headers={"content-type": "image/png"}, timeout=120)
        assert response.status_code == 201, response.text
        verdict = response.json()
        (region,) = verdict["regions"]
        assert verdict["decision"] == "fail"
        assert abs(region["bbox"][0] - 3011) <= CELL
        assert abs(region["bbox"][1] - 1703) <= CELL
        drawn = httpx.get(service.url + verdict["links"]["heatmap"], timeout=120)
        assert drawn.status_code == 200
        status = Path(f"/proc/{service.process.pid}/status").read_text()
        peak_kib = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak_kib is not None
        assert int(peak_kib[1]) * 1024 <= GIGABYTE
        facts = httpx.get(f"{service.url}/v1/products/widget").json()["bundle"]
        assert facts["tiling"] == {"overlap": 16, "scale": 1.0}, json.dumps(facts)
