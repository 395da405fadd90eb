import sys
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle.bundle import Bundle
from service.bundle.golden import GoldenSample
from service.inspection.errors import ProviderUnavailable
from service.inspection.runtime import session as session_module
from service.inspection.runtime.cuda import cuda_problems
from service.inspection.runtime.session import (
    GraphSession,
    RequestedProvider,
    SessionOptions,
    _create,
    cuda_options,
    providers,
    session_options,
)
from tests.bundles import part, tiny_draft, tiny_golden, tiny_model

MODEL = tiny_model(tiny_draft()).SerializeToString()
WITH_GAIN = tiny_model(tiny_draft(), gain=True).SerializeToString()
CPU = SessionOptions(provider="cpu", threads=1)
CPU_ONLY: list[tuple[str, dict[str, Any]]] = [("CPUExecutionProvider", {})]
ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batch_of_any_size_gives_each_image_its_own_map(batch: int) -> None:
    images = np.stack([part(brightness=10 * index) for index in range(batch)])

    maps = GraphSession(MODEL, CPU).run(images).maps

    assert maps.shape == (batch, 16, 16)
    np.testing.assert_allclose(maps[:, 0, 0], [abs(10 * index / 255 - 0.5) for index in range(batch)], atol=1e-6)


def test_gain_is_none_where_the_graph_has_none() -> None:
    assert GraphSession(MODEL, CPU).run(part()[None]).gains is None
    gains = GraphSession(WITH_GAIN, CPU).run(part(brightness=255)[None]).gains
    assert gains is not None
    assert gains.tolist() == [1.5]


def test_serialised_graph_is_not_kept() -> None:
    model = bytes(bytearray(MODEL))  # referred to by nothing else
    before = sys.getrefcount(model)

    session = GraphSession(model, CPU)

    assert sys.getrefcount(model) == before
    assert len(session.run(part()[None]).maps) == 1


def test_results_do_not_depend_on_the_memory_that_is_kept() -> None:
    session, images = GraphSession(WITH_GAIN, CPU), np.stack([part(brightness=10 * index) for index in range(3)])

    kept, returned = session.run(images), session.run(images, keeps_memory=False)

    np.testing.assert_array_equal(kept.maps, returned.maps)
    assert kept.gains is not None
    assert returned.gains is not None
    np.testing.assert_array_equal(kept.gains, returned.gains)


def test_self_test_returns_the_difference_from_training() -> None:
    session = GraphSession(WITH_GAIN, CPU)
    golden = tiny_golden(gain=True)
    shifted = [GoldenSample(sample.image, sample.anomaly_map * 1.1, sample.score_gain) for sample in golden]

    assert session.self_test(golden) < 1e-5
    assert session.self_test(shifted) == pytest.approx(0.1 / 1.1, rel=1e-3)


def test_self_test_fails_without_the_gain_output() -> None:
    assert GraphSession(MODEL, CPU).self_test(tiny_golden(gain=True)) == np.inf


def test_threads_are_set_explicitly() -> None:
    native = session_options(SessionOptions(threads=3))

    assert (native.intra_op_num_threads, native.inter_op_num_threads) == (3, 1)
    assert native.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session_options(SessionOptions()).intra_op_num_threads >= 1


def test_results_do_not_depend_on_the_arena_that_all_sessions_share() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    native = session_options(CPU)
    assert native.get_session_config_entry("session.use_env_allocators") == "1"
    alone = ort.SessionOptions()
    alone.intra_op_num_threads = 1
    expected = ort.InferenceSession(MODEL, alone, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    shared = [GraphSession(MODEL, CPU), GraphSession(MODEL, CPU)]
    for session in (*shared, *shared):
        np.testing.assert_array_equal(session.run(images).maps, np.asarray(expected))
    shared[0].close()
    np.testing.assert_array_equal(shared[1].run(images).maps, np.asarray(expected))


@pytest.mark.parametrize(
    ("requested", "available", "expected"),
    [
        ("cpu", ALL, ["CPUExecutionProvider"]),
        ("auto", ALL, ["CUDAExecutionProvider", "CPUExecutionProvider"]),
        ("auto", ["CPUExecutionProvider"], ["CPUExecutionProvider"]),
        ("cuda", ALL, ["CUDAExecutionProvider", "CPUExecutionProvider"]),
        ("tensorrt", ALL, ALL),
    ],
)
def test_provider_list(requested: RequestedProvider, available: list[str], expected: list[str]) -> None:
    options = SessionOptions(provider=requested)

    assert [name for name, _ in providers(options, available, MODEL)] == expected


def test_cuda_options_limit_memory_and_disable_tf32() -> None:
    settings = cuda_options(SessionOptions(gpu_memory_limit_bytes=2**30, device_id=1))

    assert settings["gpu_mem_limit"] == 2**30
    assert settings["use_tf32"] == 0
    assert settings["device_id"] == 1
    assert "gpu_mem_limit" not in cuda_options(SessionOptions())


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_build_without_cuda_is_named(provider: RequestedProvider) -> None:
    with pytest.raises(ProviderUnavailable, match="built without CUDA"):
        providers(SessionOptions(provider=provider), ["CPUExecutionProvider"], MODEL)


@pytest.mark.skipif(not cuda_problems(), reason="this machine has a working CUDA; the refusal is tested without one")
@pytest.mark.may_skip("no machine has and lacks CUDA at the same time")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_requested_gpu_never_falls_back(provider: RequestedProvider) -> None:
    with pytest.raises(ProviderUnavailable) as caught:
        GraphSession(MODEL, SessionOptions(provider=provider))

    for problem in cuda_problems():
        assert problem in caught.value.detail
    assert "PLUMBLINE_PROVIDER=cpu" in caught.value.detail


@pytest.mark.skipif(not cuda_problems(), reason="this machine has a working CUDA")
@pytest.mark.may_skip("no machine has and lacks CUDA at the same time")
def test_auto_uses_the_cpu_without_output(capfd: pytest.CaptureFixture[str]) -> None:
    session = GraphSession(MODEL, SessionOptions(provider="auto", threads=1))

    assert session.provider == "cpu"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_session_that_fell_back_is_refused(provider: RequestedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime only prints a line if a provider cannot be loaded, and continues with the next one."""
    monkeypatch.setattr(session_module, "cuda_problems", list)
    monkeypatch.setattr(session_module, "tensorrt_problems", list)
    monkeypatch.setattr(session_module, "_create", lambda model, options, _: _create(model, options, CPU_ONLY))
    monkeypatch.setattr(ort, "get_available_providers", lambda: ALL)

    with pytest.raises(ProviderUnavailable, match="ONNX Runtime fell back to CPUExecutionProvider"):
        GraphSession(MODEL, SessionOptions(provider=provider))


@pytest.mark.skipif("CUDAExecutionProvider" not in ort.get_available_providers(), reason="needs onnxruntime-gpu")
def test_missing_cuda_libraries_are_named_one_by_one() -> None:
    for problem in cuda_problems():
        assert "lib" in problem or "GPU" in problem or ".dll" in problem


@pytest.mark.skipif(bool(cuda_problems()), reason="needs a CUDA device, driver and libraries")
@pytest.mark.may_skip("no CI machine has a GPU")
def test_bound_cuda_run_agrees_with_the_cpu() -> None:
    images = np.stack([part(spot=(8, 8, 16)), part()])
    expected = GraphSession(WITH_GAIN, CPU).run(images)

    session = GraphSession(WITH_GAIN, SessionOptions(provider="cuda"))
    actual = session.run(images)

    assert session.provider == "cuda"
    np.testing.assert_allclose(actual.maps, expected.maps, atol=1e-5)
    np.testing.assert_allclose(actual.gains, expected.gains, atol=1e-5)  # type: ignore[arg-type]


def test_warm_up_runs_every_batch_size(tiny_bundle: Bundle) -> None:
    session = GraphSession(tiny_bundle.read_model(), CPU)

    session.warm_up((1, 2, 5))  # raises if the graph does not accept a batch size

    with pytest.raises(Exception, match="image"):
        session.run(np.zeros((1, 8, 8, 3), np.uint8))
