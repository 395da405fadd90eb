"""OpenVINO behind the same interface: float32, a chosen number of threads, and a clear error without the package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.bundle.bundle import Bundle, newest_bundle
from service.bundle.errors import ParityFailure
from service.inspection.errors import ProviderUnavailable
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime import openvino
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.openvino import OpenVinoSession, Port, openvino_options, openvino_problem
from service.inspection.runtime.session import GraphSession, SessionOptions
from tests.bundles import part, tiny_draft, tiny_model, write_tiny_bundle

WITH_GAIN = tiny_model(tiny_draft(), gain=True).SerializeToString()
OPTIONS = SessionOptions(provider="openvino", threads=1)
SHIPPED = newest_bundle(Path(__file__).parents[4] / "models" / "washer")

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed; install the extra openvino"
)
optional = pytest.mark.may_skip("openvino is an optional extra of 335 MB")


def test_precision_threads_and_streams_are_set_explicitly() -> None:
    options = openvino_options(3)

    assert options["INFERENCE_PRECISION_HINT"] == "f32"
    assert options["INFERENCE_NUM_THREADS"] == 3
    assert options["NUM_STREAMS"] == "1"


def test_missing_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda _: None)

    with pytest.raises(ProviderUnavailable) as caught:
        GraphSession(WITH_GAIN, OPTIONS)

    assert "The package openvino is not installed." in caught.value.detail
    assert "pip install '.[openvino]'" in caught.value.detail
    assert "PLUMBLINE_PROVIDER=cpu" in caught.value.detail


def test_package_that_does_not_load_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)

    assert openvino_problem() == "The package openvino does not load (ImportError)."


def test_the_runtime_is_imported_only_when_it_is_requested() -> None:
    code = "import sys, service.inspection.runtime.session; sys.exit('openvino' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_openvino
@optional
@pytest.mark.parametrize("batch", [1, 3])
def test_results_are_those_of_onnx_runtime(batch: int) -> None:
    images = np.stack([part(spot=(8, 8, 16), brightness=100 + 20 * number) for number in range(batch)])
    expected = GraphSession(WITH_GAIN, SessionOptions(provider="cpu", threads=1)).run(images)
    session = GraphSession(WITH_GAIN, OPTIONS)

    first = session.run(images)
    session.run(255 - images)  # must not overwrite the first result

    assert session.provider == "openvino"
    np.testing.assert_allclose(first.maps, expected.maps, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first.gains, expected.gains, rtol=1e-5)  # type: ignore[arg-type]


@needs_openvino
@optional
def test_ports_state_names_and_shapes() -> None:
    session = OpenVinoSession(WITH_GAIN, threads=1)

    assert session.get_inputs() == [Port("image", (None, 64, 64, 3))]
    assert session.get_outputs() == [Port("anomaly_map", (None, 16, 16)), Port("score_gain", (None,))]


@needs_openvino
@optional
def test_options_are_in_force() -> None:
    import openvino as ov

    session = OpenVinoSession(WITH_GAIN, threads=1)

    assert session.compiled_option("INFERENCE_PRECISION_HINT") == ov.Type.f32
    assert session.compiled_option("INFERENCE_NUM_THREADS") == 1
    assert session.compiled_option("NUM_STREAMS") == 1


@needs_openvino
@optional
def test_bundle_is_served_and_states_the_provider(tiny_bundle: Bundle) -> None:
    inspector = Inspector.load(tiny_bundle.path, InspectorOptions(session=OPTIONS))
    try:
        assert inspector.provider == "openvino"
        assert inspector.self_test_difference < 1e-5
    finally:
        inspector.close()


@needs_openvino
@optional
def test_runs_follow_each_other_whatever_number_is_stated(tiny_bundle: Bundle) -> None:
    """A session has one set of output buffers."""
    options = InspectorOptions(session=OPTIONS, batching=BatchingOptions(concurrency=3))
    inspector = Inspector.load(tiny_bundle.path, options)
    inspector.close()
    assert inspector.batcher.concurrency == 1


@needs_openvino
@optional
def test_bundle_with_other_results_fails_the_certificate(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path, offset=0.05)

    with pytest.raises(ParityFailure, match="on provider 'openvino'"):
        Inspector.load(bundle.path, InspectorOptions(session=OPTIONS))


@needs_openvino
@optional
@pytest.mark.slow
def test_bfloat16_fails_the_parity_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's default on processors with bfloat16; the washer's graph has the depth of a real network."""
    import openvino as ov

    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16 instructions, so OpenVINO does not compute in it")
    assert SHIPPED is not None
    bundle = Bundle.load(SHIPPED)
    exact = GraphSession(bundle.read_model(), OPTIONS)
    assert exact.self_test(bundle.golden) < bundle.manifest.parity.tolerance / 10
    exact.close()

    settings = openvino_options(1) | {"INFERENCE_PRECISION_HINT": "bf16", "EXECUTION_MODE_HINT": "PERFORMANCE"}
    monkeypatch.setattr(openvino, "openvino_options", lambda _: settings)
    with pytest.raises(ParityFailure, match="on provider 'openvino'"):
        Inspector.open(bundle, InspectorOptions(session=OPTIONS))


@needs_openvino
@optional
def test_damaged_graph_is_refused() -> None:
    model = tiny_model(tiny_draft())
    model.graph.node[0].op_type = "NoSuchOperator"

    with pytest.raises(RuntimeError):
        OpenVinoSession(model.SerializeToString(), threads=1)
