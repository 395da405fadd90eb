"""TensorRT's options: what can be checked without a GPU."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from service.inspection.runtime import tensorrt
from service.inspection.runtime.session import SessionOptions, cuda_options, providers
from service.inspection.runtime.tensorrt import GraphFacts, tensorrt_options, tensorrt_problems
from tests.bundles import tiny_draft, tiny_model

MODEL = tiny_model(tiny_draft()).SerializeToString()
DIGEST = hashlib.sha256(MODEL).hexdigest()
FACTS = GraphFacts((64, 64, 3), is_half=False, digest=DIGEST)
CAPI = Path(ort.__file__).parent / "capi"
needs_gpu_build = pytest.mark.skipif(
    "TensorrtExecutionProvider" not in ort.get_available_providers(), reason="needs onnxruntime-gpu"
)


def test_graph_is_compiled_for_all_batch_sizes() -> None:
    options = tensorrt_options(1, None, GraphFacts((384, 256, 3), is_half=False, digest=DIGEST), 8)

    assert options["trt_profile_min_shapes"] == "image:1x384x256x3"
    assert options["trt_profile_max_shapes"] == "image:8x384x256x3"
    assert options["device_id"] == 1
    assert "trt_engine_cache_path" not in options


def test_profile_includes_the_batch_of_the_self_test() -> None:
    ((_, options), *_) = providers(SessionOptions("tensorrt", max_batch=1), ort_names(), MODEL)

    assert options["trt_profile_max_shapes"] == "image:3x64x64x3"


def test_compiled_graphs_are_kept_in_the_cache(tmp_path: Path) -> None:
    options = tensorrt_options(0, tmp_path / "tensorrt", FACTS, 1)

    assert options["trt_engine_cache_enable"]
    assert options["trt_timing_cache_path"] == str(tmp_path / "tensorrt")
    compiled = Path(options["trt_engine_cache_path"])
    assert compiled.is_dir()
    assert compiled.parent == tmp_path / "tensorrt"
    with pytest.raises(FileNotFoundError):
        tensorrt_options(0, tmp_path / "unmounted" / "tensorrt", FACTS, 1)


def test_graphs_that_differ_in_their_weights_have_different_caches(tmp_path: Path) -> None:
    other = tiny_model(tiny_draft())
    weights = next(tensor for tensor in other.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) + 1, weights.name))

    def cache_of(model: bytes) -> str:
        ((_, options), *_) = providers(SessionOptions("tensorrt", engine_cache=tmp_path), ort_names(), model)
        return str(options["trt_engine_cache_path"])

    assert cache_of(MODEL) == cache_of(MODEL)
    assert cache_of(MODEL) != cache_of(other.SerializeToString())


def test_facts_are_read_from_the_graph() -> None:
    assert GraphFacts.read(MODEL) == FACTS

    half = tiny_model(tiny_draft())
    half.graph.initializer[0].data_type = onnx.TensorProto.FLOAT16
    assert GraphFacts.read(half.SerializeToString()).is_half


def test_float16_is_used_for_float16_graphs_only() -> None:
    assert not tensorrt_options(0, None, FACTS, 1)["trt_fp16_enable"]
    assert tensorrt_options(0, None, replace(FACTS, is_half=True), 1)["trt_fp16_enable"]


@needs_gpu_build
@pytest.mark.skipif(sys.platform != "linux", reason="the library has another name")
def test_this_onnx_runtime_knows_every_option(tmp_path: Path) -> None:
    """A provider with an unknown option is not loaded."""
    for library, options in (
        ("libonnxruntime_providers_tensorrt.so", tensorrt_options(0, tmp_path / "cache", FACTS, 1)),
        ("libonnxruntime_providers_cuda.so", cuda_options(SessionOptions(gpu_memory_limit_bytes=1))),
    ):
        content = (CAPI / library).read_bytes()
        for name in options:
            assert name.encode() + b"\0" in content, name


@needs_gpu_build
def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise OSError

    monkeypatch.setattr(tensorrt, "_load", missing)

    assert tensorrt_problems() == [f"The library {tensorrt.LIBRARY} is missing or does not load."]


def test_build_without_tensorrt_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])

    (problem,) = tensorrt_problems()
    assert "built without TensorRT" in problem


@pytest.mark.parametrize(("given", "expected"), [(None, "0"), ("1", "1")])
def test_tf32_is_switched_off_unless_an_administrator_has_set_it(given: str | None, expected: str) -> None:
    code = "import os; from service.inspection.runtime.tensorrt import disable_tf32; disable_tf32(); "
    environment = {name: value for name, value in os.environ.items() if name != "NVIDIA_TF32_OVERRIDE"}
    if given is not None:
        environment["NVIDIA_TF32_OVERRIDE"] = given

    done = subprocess.run(
        [sys.executable, "-c", code + "print(os.environ['NVIDIA_TF32_OVERRIDE'])"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == expected


def ort_names() -> list[str]:
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
