"""The reasons why CUDA cannot be used."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from service.inspection.runtime import cuda

MISSING_DRIVER = f"The NVIDIA driver is missing ({cuda._DRIVER} does not load)."


@pytest.mark.parametrize(
    ("driver", "library", "reported"),
    [
        (MISSING_DRIVER, f"The library {cuda._DRIVER} is missing or does not load.", [MISSING_DRIVER]),
        (MISSING_DRIVER, "The library libcudnn.so.9 is missing or does not load.", None),
        (None, "The library libcudnn.so.9 is missing or does not load.", None),
        (None, None, []),
    ],
)
def test_missing_driver_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, library: str | None, reported: list[str] | None
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda, "_driver_problem", lambda: driver)
    monkeypatch.setattr(cuda, "_library_problem", lambda: library)
    assert cuda.cuda_problems() == ([text for text in (driver, library) if text] if reported is None else reported)


@pytest.mark.skipif(not cuda.cuda_problems(), reason="this machine has a working CUDA")
def test_each_reason_is_a_sentence() -> None:
    for problem in cuda.cuda_problems():
        assert problem[0].isupper()
        assert problem.endswith(".")
