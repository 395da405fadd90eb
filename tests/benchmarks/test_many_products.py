"""The benchmark of many products, with tiny bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.many_products import measure
from tests.bundles import part, write_tiny_bundle
from tests.running_service import encode

pytestmark = pytest.mark.slow
SECONDS = 2.0


def test_every_figure_is_measured_and_products_do_not_replace_each_other_with_every_image(tmp_path: Path) -> None:
    original = write_tiny_bundle(tmp_path / "original")
    report = measure(original, tmp_path, 4, encode(part()), seconds=SECONDS)

    assert report.keys() == {
        "products", "model_mib", "first_product_mib", "first_start_s", "ready_mib", "further_product_mib", "all_mib",
        "estimated_mib", "first_load_ms", "in_memory_ms", "start_s", "within_limit_mib", "reload_ms", "contended",
    }  # fmt: skip
    contended = report["contended"]
    assert isinstance(contended, dict)
    assert contended["completed"] > 0
    # A bundle stays for half a second at least.
    assert 1 <= contended["loads_per_second"] * SECONDS <= SECONDS / 0.5 + 2
