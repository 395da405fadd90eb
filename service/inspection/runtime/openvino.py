"""Graph sessions on Intel's OpenVINO runtime, an optional dependency (extra `openvino`).

The runtime itself is used, not ONNX Runtime's plugin for it: it runs the whole graph or fails, where ONNX Runtime would
run single operators on its own CPU provider, and its options have an effect. The plugin (1.8) ignores the number of
threads and the precision unless both are in a configuration file.

On processors with bfloat16 instructions OpenVINO computes float32 graphs in bfloat16 unless it is told otherwise. Maps
then differ in the third digit, and so would the verdicts at a threshold. So the precision is always set: no bundle is
calibrated in bfloat16. The self-test of a bundle detects such a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from service.inspection.errors import ProviderUnavailable

_PACKAGE = "openvino"
_DEVICE = "CPU"


def openvino_problem() -> str | None:
    """Return why OpenVINO cannot be used, as a sentence; None if it can."""
    if find_spec(_PACKAGE) is None:
        return "The package openvino is not installed."
    try:
        import openvino

        devices = openvino.Core().available_devices
    except (ImportError, OSError, RuntimeError) as error:
        return f"The package openvino does not load ({type(error).__name__})."
    return None if _DEVICE in devices else f"OpenVINO supports no {_DEVICE} of this machine."


def openvino_version() -> str:
    """Return the version of the installed package.

    Raises:
        metadata.PackageNotFoundError: It is not installed.
    """
    return metadata.version(_PACKAGE)


def openvino_options(threads: int) -> dict[str, Any]:
    """Return the options of a compiled graph for one image after another.

    Args:
        threads: CPU threads of one inference run.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        # Threads that are bound to cores would share them with those that decode the next image.
        "ENABLE_CPU_PINNING": False,
    }


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: its name, and its shape, in which a dynamic dimension is None."""

    name: str
    shape: tuple[int | None, ...]


class OpenVinoSession:
    """A compiled graph with the methods of `onnxruntime.InferenceSession` that `GraphSession` uses.

    Args:
        model: The serialised ONNX graph.
        threads: CPU threads of one inference run.
        options: Further options of OpenVINO, which replace those of `openvino_options`.

    Raises:
        ProviderUnavailable: OpenVINO is not installed or does not work on this machine.
        RuntimeError: OpenVINO does not support the graph.
    """

    def __init__(self, model: bytes, threads: int, options: Mapping[str, Any] | None = None) -> None:
        if (problem := openvino_problem()) is not None:
            raise ProviderUnavailable("openvino", problem)
        import openvino

        core = openvino.Core()
        self._compiled = core.compile_model(
            core.read_model(model=model), _DEVICE, openvino_options(threads) | dict(options or {})
        )
        self._request = self._compiled.create_infer_request()

    def get_inputs(self) -> list[Port]:
        """Return the inputs of the graph."""
        return [_port(port) for port in self._compiled.inputs]

    def get_outputs(self) -> list[Port]:
        """Return the outputs of the graph."""
        return [_port(port) for port in self._compiled.outputs]

    def run(self, outputs: Sequence[str], inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run the graph. Only one thread may do so at a time: all runs use the same output buffers.

        Args:
            outputs: Names of the outputs.
            inputs: Arrays by the names of the inputs.

        Returns:
            The outputs, copied from the memory that the next run overwrites.
        """
        self._request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()}, share_inputs=True)
        return [self._request.get_tensor(name).data.copy() for name in outputs]

    def compiled_option(self, name: str) -> Any:
        """Return the value of an option that is in force."""
        return self._compiled.get_property(name)


def _port(port: Any) -> Port:
    shape = port.get_partial_shape()
    return Port(port.get_any_name(), tuple(None if dim.is_dynamic else dim.get_length() for dim in shape))
