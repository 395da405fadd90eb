"""The comparison of throughputs: which bundle is converted, and how ratios are formed."""

from pathlib import Path

import pytest

from benchmarks.precision_throughput import Variant, newest_fp32, ratios
from service.bundle.bundle import Bundle
from tests.bundles import write_tiny_bundle
from tests.serving import ServiceProcess


def test_the_newest_fp32_bundle_is_converted(tmp_path: Path) -> None:
    first = write_tiny_bundle(tmp_path / "one")
    write_tiny_bundle(tmp_path / "two", precision="int8")

    assert newest_fp32(tmp_path / "one", "widget").digest == first.digest
    with pytest.raises(LookupError, match="no fp32 bundle"):
        newest_fp32(tmp_path / "two", "widget")


def test_throughputs_are_compared_within_a_round(tiny_bundle: Bundle) -> None:
    def variant(name: str, per_s: list[float]) -> Variant:
        return Variant(name, tiny_bundle, "cpu", ServiceProcess.__new__(ServiceProcess), per_s)

    found = ratios([variant("fp32 onnxruntime", [10, 20, 40]), variant("int8 onnxruntime", [15, 40, 60])])

    assert found == {"fp32 onnxruntime": 1.0, "int8 onnxruntime": 1.5}
