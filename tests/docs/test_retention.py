"""The program that sets the retention of all products works as it is printed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.docs.blocks import ROOT, blocks_of, run
from tests.serving import service_process

GUIDE = ROOT / "docs" / "how-to" / "recipes.md"


@pytest.mark.slow
def test_retention_is_set_for_all_products_once(tiny_models: Path, tmp_path: Path) -> None:
    (block,) = [block for block in blocks_of(GUIDE) if block.language == "python"]
    with service_process(tiny_models, tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        first, again = (run(block, tmp_path, service.url) for _ in range(2))
        recipe = httpx.get(f"{service.url}/v1/products/widget/recipe").json()["recipe"]

    assert (first, again) == ("widget: limited\n", "")
    assert {decision: limit["days"] for decision, limit in recipe["retention"].items()} == {
        "pass": 7, "invalid": 7, "review": 90, "fail": 90,
    }  # fmt: skip
