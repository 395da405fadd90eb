"""Requests for threshold proposals, shared by the tests of the API and of processes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np

from tests.bundles import part
from tests.running_service import RunningService, encode

PROPOSE = "/v1/products/widget/thresholds:propose"
PROPOSALS = "/v1/products/widget/proposals"
RECIPE = "/v1/products/widget/recipe"
WHO = {"author": "Ada"}


def good_part(seed: int) -> bytes:
    """Return a good part that scores far above the calibration card's, as after a change of illumination."""
    rng = np.random.default_rng(seed)
    return encode(part(brightness=int(rng.integers(150, 200))) + rng.integers(0, 3, (64, 64, 3), np.uint8))


def propose(service: RunningService, **requested: Any) -> httpx.Response:
    return service.client.post(PROPOSE, json=WHO | {"target_false_reject_rate": 0.05} | requested)


def inspect_days(service: RunningService, per_day: int, days: int = 2) -> list[dict[str, Any]]:
    first = datetime(2026, 3, 1, 8, tzinfo=UTC)
    return [
        service.inspect(
            good_part(1000 * day + number), params={"captured_at": (first + timedelta(days=day)).isoformat()}
        ).json()
        for day in range(days)
        for number in range(per_day)
    ]


def apply(service: RunningService, proposal: dict[str, Any]) -> httpx.Response:
    return service.client.put(RECIPE, json=WHO | {"reason": "new illumination", "proposal_id": proposal["id"]})


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def send(
    service: RunningService, files: Mapping[str, bytes], *, form: bool = False, **requested: Any
) -> httpx.Response:
    params: dict[str, Any] = WHO | {"target_false_reject_rate": 0.1, "declared_good": "true"} | requested
    if form:
        parts = [("image", (name, data, "image/png")) for name, data in files.items()]
        return service.client.post(PROPOSE, params=params, files=parts, timeout=60)
    headers = {"content-type": "application/zip"}
    return service.client.post(PROPOSE, params=params, content=zipped(files), headers=headers, timeout=60)


def two_days(count: int = 10) -> dict[str, bytes]:
    return {f"good/2026-03-0{1 + number % 2}/{number}.png": good_part(number) for number in range(count)}
