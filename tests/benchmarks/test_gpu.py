"""The check of GPU machines: what can be tested without one."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.gpu import check_refusal, failures, heavy_on_cpu, placement, profile
from service.bundle.bundle import Bundle
from service.inspection.runtime.cuda import cuda_problems
from service.inspection.runtime.session import SessionOptions
from tests.bundles import part

ROOT = Path(__file__).parents[2]


def test_profile_states_which_provider_ran_each_operator(tiny_bundle: Bundle) -> None:
    found = profile(tiny_bundle.read_model(), SessionOptions("cpu", threads=1), part())

    assert found.keys() == {"CPUExecutionProvider"}
    assert found["CPUExecutionProvider"]["AveragePool"] == 1


def test_convolution_on_the_cpu_is_found() -> None:
    def event(name: str, provider: str) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "args": {"op_name": name, "provider": provider}}

    found = placement(
        [event("Conv", "CUDAExecutionProvider"), event("Shape", "CPUExecutionProvider"), {"cat": "Session"}]
    )
    assert heavy_on_cpu(found) == []

    found = placement([event("Conv", "CPUExecutionProvider"), event("Conv", "CUDAExecutionProvider")])
    assert heavy_on_cpu(found) == ["Conv"]
    assert found["CUDAExecutionProvider"] == Counter({"Conv": 1})


def test_failed_checks_are_listed_with_their_part() -> None:
    report = {"cards": ["A"], "cuda graph": {"checks": {"parity": True, "provider": False}}, "service": {}}

    assert failures(report) == ["cuda graph: provider"]


@pytest.mark.slow
def test_service_without_a_gpu_is_not_ready(tiny_models: Path) -> None:
    report = check_refusal(tiny_models)

    assert report["status"] == 503
    assert failures({"refusal": report}) == []


@pytest.mark.slow
@pytest.mark.skipif(not cuda_problems(), reason="this machine has a working CUDA")
@pytest.mark.may_skip("no machine has and lacks CUDA at the same time")
def test_script_names_what_is_missing() -> None:
    done = subprocess.run([ROOT / "benchmarks" / "gpu.sh"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Nothing was measured: ")
