"""Find out why CUDA cannot be used, library by library.

`onnxruntime.get_available_providers()` lists CUDA wherever the package was built with it, and a session that requests
it falls back to the CPU with only a line on stderr. On a production line that would be noticed only by its low speed.
So everything that CUDA needs is checked before a session is created.
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
    """Return whether there is an NVIDIA driver with a usable GPU. This is fast: CUDA's libraries are not loaded."""
    return _driver_problem() is None


def cuda_problems() -> list[str]:
    """Return everything that prevents ONNX Runtime from using CUDA on this machine; empty if nothing does.

    Loads CUDA's libraries into this process to check them.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return [f"The installed ONNX Runtime {ort.__version__} was built without CUDA."]
    driver, library = _driver_problem(), _library_problem()
    if driver and library and _DRIVER in library:
        library = None  # the libraries need the driver's, whose absence is reported already
    return [problem for problem in (driver, library) if problem is not None]


def _driver_problem() -> str | None:
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"The NVIDIA driver is missing ({_DRIVER} does not load)."
    if (status := driver.cuInit(0)) != 0:
        return f"The NVIDIA driver finds no usable GPU (cuInit returned {status})."
    return None


def _library_problem() -> str | None:
    # preload_dlls finds the CUDA and cuDNN wheels in site-packages. It prints to stdout, where commands print their
    # results.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    folder = Path(ort.__file__).parent / "capi"
    try:
        for name in _PROVIDER_FILES:
            ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        missing = str(error).split(":", 1)[0].strip()
        return f"The library {missing} is missing or does not load."
    return None
