"""Why CUDA cannot be used here, library by library.

`onnxruntime.get_available_providers()` lists CUDA wherever the wheel was built with it, and a session that asks for it
falls back to the CPU with a line on stderr. A line PC that silently runs ten times slower is found by its reject bin,
so each thing that CUDA needs is tried by name before a session is made.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from pathlib import Path

import onnxruntime as ort

_WINDOWS = sys.platform == "win32"
_DRIVER = "nvcuda.dll" if _WINDOWS else "libcuda.so.1"
_PROVIDER_FILES = (
    ("onnxruntime_providers_shared.dll", "onnxruntime_providers_cuda.dll")
    if _WINDOWS
    else ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so")
)


def has_driver() -> bool:
    """Whether an NVIDIA driver with a usable GPU is there; cheap, unlike loading CUDA's libraries."""
    return _driver_problem() is None


def cuda_problems() -> list[str]:
    """Everything that keeps ONNX Runtime from using CUDA on this machine; empty where nothing does.

    Loads CUDA's libraries into this process in order to try them.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return [f"the installed ONNX Runtime {ort.__version__} was built without CUDA."]
    return [problem for problem in (_driver_problem(), _library_problem()) if problem is not None]


def _driver_problem() -> str | None:
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"the NVIDIA driver is missing ({_DRIVER} does not load)."
    if (status := driver.cuInit(0)) != 0:
        return f"the NVIDIA driver finds no usable GPU (cuInit returned {status})."
    return None


def _library_problem() -> str | None:
    # preload_dlls finds the CUDA and cuDNN wheels in site-packages; it reports on stdout, where answers go.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    folder = Path(ort.__file__).parent / "capi"
    try:
        for name in _PROVIDER_FILES:
            ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        missing = str(error).split(":", 1)[0].strip()
        return f"the library {missing} is missing or does not load."
    return None
