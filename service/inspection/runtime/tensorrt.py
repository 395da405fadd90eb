"""Options of ONNX Runtime's TensorRT execution provider.

TensorRT compiles a graph for one type of GPU, which takes minutes. Compiled graphs are stored, so only the first start
on a machine takes that long. A graph is compiled for all batch sizes at once; otherwise the first batch of a new size
would be compiled while images wait.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

LIBRARY = "nvinfer_10.dll" if os.name == "nt" else "libnvinfer.so.10"


def tensorrt_problems() -> list[str]:
    """Return what prevents ONNX Runtime from using TensorRT, besides what prevents CUDA; empty if nothing does."""
    if "TensorrtExecutionProvider" not in ort.get_available_providers():
        return [f"The installed ONNX Runtime {ort.__version__} was built without TensorRT."]
    try:
        _load()
    except OSError:
        return [f"The library {LIBRARY} is missing or does not load."]
    return []


@dataclass(frozen=True)
class GraphFacts:
    """What TensorRT needs to know about a graph.

    Attributes:
        image_shape: Shape of one image, [H, W, 3].
        is_half: Whether the graph computes in float16.
        digest: SHA-256 of the serialised graph, hex.
    """

    image_shape: tuple[int, ...]
    is_half: bool
    digest: str

    @classmethod
    def read(cls, model: bytes) -> GraphFacts:
        """Read them from a serialised graph, whose input has a dynamic batch axis."""
        # Imported here: it is needed for TensorRT only.
        import onnx

        graph = onnx.load_model_from_string(model).graph
        (image,) = graph.input
        shape = tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim[1:])
        is_half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
        return cls(shape, is_half, hashlib.sha256(model).hexdigest())


def tensorrt_options(device_id: int, cache: Path | None, graph: GraphFacts, max_batch: int) -> dict[str, Any]:
    """Return the options of the provider.

    Args:
        device_id: CUDA device.
        cache: Folder with a folder for each compiled graph. It is created if it does not exist, but not its parent
            folder. None compiles at every start.
        graph: The graph.
        max_batch: Largest batch.
    """
    item = "x".join(map(str, graph.image_shape))
    options: dict[str, Any] = {
        "device_id": device_id,
        "trt_profile_min_shapes": f"image:1x{item}",
        "trt_profile_opt_shapes": f"image:1x{item}",
        "trt_profile_max_shapes": f"image:{max_batch}x{item}",
        # In a float32 graph float16 would change the third digit of a map.
        "trt_fp16_enable": graph.is_half,
        # Several products would otherwise be compiled at the same time, each with the memory of a compilation.
        "trt_force_sequential_engine_build": True,
    }
    if cache is not None:
        # ONNX Runtime names a compiled graph by the names in the graph, not by its weights: in one folder, the bundles
        # of a method would all get the one that was compiled first (microsoft/onnxruntime#6455).
        compiled = cache / graph.digest[:16]
        for folder in (cache, compiled):
            folder.mkdir(exist_ok=True)
        options |= {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(compiled),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
        }
    return options


def disable_tf32() -> None:
    """Compute float32 graphs in float32: TensorRT uses TF32 by default, which changes the third digit of a map.

    It has no option for it. NVIDIA's libraries read the variable when they are loaded, so a value that an administrator
    has set stays, and the self-test of each bundle decides.
    """
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


def _load() -> None:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        # The wheel of TensorRT keeps its libraries in a package, whose import loads them.
        try:
            import tensorrt_libs  # noqa: F401
        except ImportError as error:
            raise OSError(LIBRARY) from error
        ctypes.CDLL(LIBRARY)
