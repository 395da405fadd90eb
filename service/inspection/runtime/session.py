"""A session for one graph: execution provider, bound inputs and outputs, warm-up and self-test.

ONNX Runtime runs the graph, or OpenVINO where it is requested; see `service.inspection.runtime.openvino`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.bundle.arrays import Float32Map, UInt8Image
from service.bundle.golden import GoldenSample, parity_difference
from service.inspection.errors import ProviderUnavailable
from service.inspection.runtime.cuda import cuda_problems, has_driver
from service.inspection.runtime.openvino import OpenVinoSession
from service.inspection.runtime.tensorrt import GraphFacts, disable_tf32, tensorrt_options, tensorrt_problems
from service.inspection.runtime.threads import cpu_quota

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
RequestedProvider = Literal["auto", "cuda", "tensorrt", "openvino", "cpu"]

_ORT_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
SELF_TEST_BATCH = 3  # images


@dataclass(frozen=True)
class SessionOptions:
    """Options of a graph session.

    Attributes:
        provider: "auto" uses CUDA where it works and the CPU otherwise; any other value never falls back.
        threads: CPU threads of one inference run; None uses the CPU quota.
        gpu_memory_limit_bytes: Upper limit of CUDA's memory arena, None for no limit.
        device_id: CUDA device.
        max_batch: Largest batch. TensorRT compiles a graph for the batches up to this size.
        engine_cache: Folder for TensorRT's compiled graphs; None compiles at every start. It is created, but not its
            parent folder.
    """

    provider: RequestedProvider = "auto"
    threads: int | None = None
    gpu_memory_limit_bytes: int | None = None
    device_id: int = 0
    max_batch: int = 1
    engine_cache: Path | None = None


@dataclass(frozen=True)
class GraphOutput:
    """The output of a graph for a batch.

    Attributes:
        maps: float32 [N, h, w].
        gains: float32 [N], or None where the method has none.
    """

    maps: Float32Map
    gains: npt.NDArray[np.float32] | None


class Session(ABC):
    """Runs one graph. Several threads may call `run` at the same time only if `may_run_concurrently`.

    Attributes:
        options: How to run it.
        provider: The provider in use, which may differ from the requested one.
        image_shape: Height, width and channels of an input image.
    """

    options: SessionOptions
    provider: Provider
    image_shape: tuple[int, ...]

    @property
    @abstractmethod
    def may_run_concurrently(self) -> bool:
        """Whether several threads may call `run` at the same time."""

    @abstractmethod
    def run(self, images: UInt8Image, *, keeps_memory: bool = True) -> GraphOutput:
        """Infer a batch.

        Args:
            images: uint8 [N, H, W, 3], RGB, of the graph's input size.
            keeps_memory: Whether memory for the tensors between the operators may be kept for the next run.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what belongs to the graph, even if this object is still referenced. It cannot be used afterwards."""

    def warm_up(self, batch_sizes: Sequence[int] = (1,)) -> None:
        """Run blank images, so that the first image of each batch size has no extra latency."""
        for size in batch_sizes:
            self.run(np.zeros((size, *self.image_shape), np.uint8))

    def self_test(self, golden: Sequence[GoldenSample], *, in_batch: bool = True) -> float:
        """Run the golden samples and compare the results with the expected ones.

        Args:
            golden: The samples.
            in_batch: Run a small batch, too, as from several cameras.

        Returns:
            The largest relative difference of a map or a gain, as `parity_difference` defines it.
        """
        worst = 0.0
        batches = [[sample] for sample in golden]  # one at a time, as from a single camera
        if in_batch:
            batches.append(list(golden[:SELF_TEST_BATCH]))
        for batch in batches:
            output = self.run(np.stack([sample.image for sample in batch]), keeps_memory=False)
            for index, sample in enumerate(batch):
                worst = max(worst, parity_difference(sample.anomaly_map, output.maps[index]))
                if sample.score_gain is not None:
                    gain = np.nan if output.gains is None else output.gains[index]
                    worst = max(worst, parity_difference(sample.score_gain, gain))
        return worst


class GraphSession(Session):
    """Runs one graph in this process.

    Args:
        model: The serialised ONNX graph.
        options: How to run it.

    Raises:
        ProviderUnavailable: The requested provider cannot be used, or ONNX Runtime would fall back to the CPU.
    """

    def __init__(self, model: bytes, options: SessionOptions | None = None) -> None:
        self.options = options or SessionOptions()
        if self.options.provider == "openvino":
            self._session: Any = OpenVinoSession(model, thread_count(self.options))
            self.provider = "openvino"
        else:
            self._session = _open_session(model, self.options)
            self.provider = _served_by(self._session)
        self._outputs = [output.name for output in self._session.get_outputs()]
        # The batch axis is a name, because it is dynamic; the other dimensions are numbers.
        self.image_shape = tuple(self._session.get_inputs()[0].shape[1:])

    @property
    def may_run_concurrently(self) -> bool:
        """Whether several threads may call `run` at the same time.

        The runs of a GPU follow each other. A session of OpenVINO has one set of output buffers, so a second run would
        overwrite the results of the first one.
        """
        return self.provider == "cpu"

    def run(self, images: UInt8Image, *, keeps_memory: bool = True) -> GraphOutput:
        """Infer a batch.

        Args:
            images: uint8 [N, H, W, 3], RGB, of the graph's input size.
            keeps_memory: Whether memory for the tensors between the operators is kept for the next run (CPU only).

        Raises:
            RuntimeError: The batch axis of the graph's outputs is not dynamic.
        """
        named = self.run_named(images, keeps_memory=keeps_memory)
        output = GraphOutput(np.asarray(named["anomaly_map"]), named.get("score_gain"))
        count = len(images)
        if len(output.maps) != count or (output.gains is not None and output.gains.shape != (count,)):
            raise RuntimeError(
                f"the graph returned {len(output.maps)} maps for {count} images; its batch axis must be dynamic"
            )
        return output

    def run_named(self, images: UInt8Image, *, keeps_memory: bool = True) -> dict[str, npt.NDArray[Any]]:
        """Infer a batch and return all outputs of the graph by name, without checks.

        Args:
            images: uint8 [N, H, W, 3], RGB, of the graph's input size.
            keeps_memory: As for `run`.
        """
        if self.provider in {"cuda", "tensorrt"}:
            values = self._run_bound(images)
        elif keeps_memory or self.provider != "cpu":
            values = self._session.run(self._outputs, {"image": images})
        else:
            values = self._session.run(self._outputs, {"image": images}, _returning_memory())
        return dict(zip(self._outputs, values, strict=True))

    def _run_bound(self, images: UInt8Image) -> Sequence[Any]:
        # Outputs stay in CUDA memory until all are computed and are then copied once. Only OrtValues created here are
        # bound: external, non-contiguous buffers gave wrong results (microsoft/onnxruntime#10299).
        binding = self._session.io_binding()
        device = self.options.device_id
        binding.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(images, "cuda", device))
        for name in self._outputs:
            binding.bind_output(name, "cuda", device)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def close(self) -> None:
        """Free the graph's memory now, even if this object is still referenced. It cannot be used afterwards."""
        self._session = None


@functools.cache
def _register_arena() -> None:
    """Create the memory arena of the CPU that all sessions of this process share.

    The tensors between the operators of the default graph take about 30 MiB, three times its weights. An arena never
    gives them back, so with an arena per session every further product would keep as much. With a common one they are
    kept once for each graph that runs at the same time. Results do not depend on it.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # Grow by the requested size only (kSameAsRequested), because the arena is not returned to the system.
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


def _returning_memory() -> ort.RunOptions:
    """Return the options of a run after which the arena returns what no run uses.

    The first runs of a graph take several times the memory of later ones: its tensors are not planned as one block yet,
    and the self-test runs a batch.
    """
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def thread_count(options: SessionOptions) -> int:
    """Return the number of CPU threads of one inference run.

    Runtimes use the number of the host's cores by default, not the container's quota (microsoft/onnxruntime#29510).
    """
    return options.threads or cpu_quota()


def session_options(options: SessionOptions) -> ort.SessionOptions:
    """Return the options for ONNX Runtime."""
    native = ort.SessionOptions()
    native.intra_op_num_threads = thread_count(options)
    native.inter_op_num_threads = 1
    # Spinning worker threads would take the cores that decode the next image and serve /health/live.
    native.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _register_arena()
    native.add_session_config_entry("session.use_env_allocators", "1")
    native.log_severity_level = 3
    return native


def providers(options: SessionOptions, available: Sequence[str], model: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Return the provider list for ONNX Runtime, preferred provider first.

    Args:
        options: The options of the session.
        available: Providers that this build of ONNX Runtime has.
        model: The serialised graph.

    Raises:
        ProviderUnavailable: This build of ONNX Runtime lacks the requested provider.
    """
    cpu: tuple[str, dict[str, Any]] = (_ORT_NAMES["cpu"], {})
    if options.provider == "cpu":
        return [cpu]
    if _ORT_NAMES["cuda"] not in available:
        if options.provider != "auto":
            reason = f"the installed ONNX Runtime {ort.__version__} was built without CUDA."
            raise ProviderUnavailable(options.provider, reason)
        return [cpu]
    cuda = (_ORT_NAMES["cuda"], cuda_options(options))
    if options.provider != "tensorrt":
        return [cuda, cpu]
    # What TensorRT does not support runs on CUDA.
    max_batch = max(options.max_batch, SELF_TEST_BATCH)
    compiled = tensorrt_options(options.device_id, options.engine_cache, GraphFacts.read(model), max_batch)
    return [(_ORT_NAMES["tensorrt"], compiled), cuda, cpu]


def cuda_options(options: SessionOptions) -> dict[str, Any]:
    """Return CUDA options for a long-running process with fixed input shapes."""
    settings: dict[str, Any] = {
        "device_id": options.device_id,
        # Grow by the requested size only: doubling the arena takes memory that another product's session needs.
        "arena_extend_strategy": "kSameAsRequested",
        # An exhaustive search takes seconds per new batch size and has no lasting benefit.
        "cudnn_conv_algo_search": "HEURISTIC",
        # TF32 changes the third significant digit, so calibration and serving would differ between GPU generations.
        "use_tf32": 0,
        "do_copy_in_default_stream": 1,
    }
    if options.gpu_memory_limit_bytes is not None:
        settings["gpu_mem_limit"] = options.gpu_memory_limit_bytes
    return settings


def _open_session(model: bytes, options: SessionOptions) -> ort.InferenceSession:
    wanted = providers(options, ort.get_available_providers(), model)
    # On a machine without a GPU, do not load CUDA's libraries only to find that there is none.
    if len(wanted) == 1 or (options.provider == "auto" and not has_driver()):
        return _create(model, options, wanted[-1:])
    if options.provider == "tensorrt":
        disable_tf32()  # before NVIDIA's libraries are loaded
    problems = cuda_problems()
    if options.provider == "tensorrt":
        problems += tensorrt_problems()
    if not problems:
        session = _create(model, options, wanted)
        if _ORT_NAMES[_served_by(session)] == wanted[0][0]:
            return session
        instead = session.get_providers()[0]
        problems = [f"All libraries load, but ONNX Runtime fell back to {instead}; see its log for the reason."]
    if options.provider != "auto":
        raise ProviderUnavailable(options.provider, " ".join(problems))
    return _create(model, options, wanted[-1:])


def _create(model: bytes, options: SessionOptions, wanted: list[tuple[str, dict[str, Any]]]) -> ort.InferenceSession:
    native = session_options(options)
    if wanted[0][0] == _ORT_NAMES["cpu"]:
        # In the arena, the weights would take a part of a block that is free between two runs, and the rest of it would
        # be too small for the next run. Outside it, their memory is also returned when the session is closed.
        native.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    session = ort.InferenceSession(model, native, providers=wanted)
    # Otherwise ONNX Runtime silently recreates the session on the CPU after a CUDA error at run time.
    session.disable_fallback()
    # It keeps the serialised graph, as large as the weights, only to recreate itself for other providers.
    session._model_bytes = None
    return session


def _served_by(session: ort.InferenceSession) -> Provider:
    first = session.get_providers()[0]
    return next(provider for provider, name in _ORT_NAMES.items() if name == first)
